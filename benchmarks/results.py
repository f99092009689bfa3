"""What `make reproduce` found: the tables of docs/results.md, and whether the floors hold."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

COMMAND = "make reproduce"
# The metric by which a protocol judges, and whether more of it is better.
JUDGED_BY = {"ratings": ("auc", True), "implicit": ("rmse", False)}
# What the NFM is to reach: a figure, and other models.
_LEAST = {"ratings": {"0.790": 0.790}}
_RIVALS = {"ratings": ("fm",), "implicit": ("fm", "wide_deep", "deep_cross")}
# Those that FuxiCTR trains too: each of the six models, of NFM's depths the paper's.
COMPARED = ("lr", "fm", "fnn", "wide_deep", "deep_cross", "nfm-1")
_METRICS = ("auc", "logloss", "rmse")
# Least difference from the peer that counts. Three seeds may lie close together by chance; and the
# test rows alone, of some 10,000, make an AUC uncertain by twice as much.
_LEAST_NOISE = 0.002


@dataclass(frozen=True)
class Trained:
    """A training with a model's best hyperparameters, judged on the test rows.

    Attributes:
        protocol: ratings or implicit.
        model: As models.yaml calls it.
        seed: Of the training.
        test: Metrics on the test rows.
        valid: Metric on the validation rows that stopped the training.
        parameters: Numbers in the model, the embedding table's among them.
        epoch_s: Seconds of an epoch's steps, median.
        chosen: The hyperparameters, by dotted key.
        trials: Of the search for them.
        config: File that holds them.
        peer: The metric that judges, of FuxiCTR's model with these hyperparameters and this seed;
            None if it did not train, or was not to.
    """

    protocol: str
    model: str
    seed: int
    test: dict[str, float]
    valid: float
    parameters: int
    epoch_s: float
    chosen: dict[str, Any]
    trials: int
    config: str
    peer: float | None


@dataclass(frozen=True)
class Summary:
    """All seeds of a protocol and model."""

    runs: Sequence[Trained]

    @property
    def first(self) -> Trained:
        """One for all, in what does not depend on the seed."""
        return self.runs[0]

    def mean(self, metric: str) -> float:
        """Of a test metric."""
        return statistics.fmean(run.test[metric] for run in self.runs)

    @property
    def valid(self) -> float:
        """Mean of the validation metric."""
        return statistics.fmean(run.valid for run in self.runs)

    def text(self, metric: str) -> str:
        """Mean of a test metric, and the standard deviation over the seeds."""
        return _spread([run.test[metric] for run in self.runs])

    def beside_peer(self) -> list[str]:
        """Ours, the peer's, the difference, what of it is noise, and what follows.

        Noise is two standard errors of the difference of both means, and ``_LEAST_NOISE`` at least.
        """
        metric, more = JUDGED_BY[self.first.protocol]
        ours = [run.test[metric] for run in self.runs]
        theirs = [run.peer for run in self.runs if run.peer is not None]
        if len(theirs) < len(ours):
            return [_spread(ours), "-", "-", "-", "**did not train**"]
        variance = (statistics.variance(ours) + statistics.variance(theirs)) / len(ours)
        noise = max(2 * math.sqrt(variance), _LEAST_NOISE)
        difference = statistics.fmean(ours) - statistics.fmean(theirs)
        gain = difference if more else -difference
        verdict = "better" if gain > noise else "within noise" if gain >= -noise else "**worse**"
        return [_spread(ours), _spread(theirs), f"{difference:+.4f}", f"{noise:.4f}", verdict]


def line(runs: Sequence[Trained]) -> str:
    """A protocol and model as a line of a terminal."""
    summary = Summary(runs)
    metric, _ = JUDGED_BY[summary.first.protocol]
    return f"{summary.first.protocol} {summary.first.model}: test {metric} {summary.text(metric)}"


def page(found: Iterable[Trained]) -> str:
    """The tables of all protocols, and the floors."""
    found = list(found)
    parts = []
    for protocol, summaries in _by_protocol(found).items():
        parts += [f"### {protocol}", _metrics(summaries), _chosen(summaries), _beside(summaries)]
    return "\n\n".join([*parts, "### Floors", floors(found)])


def floors(found: Iterable[Trained]) -> str:
    """What the comparison should come to, one line each, and whether it does.

    NFM is the one of its depths that is best on the validation rows.
    """
    lines = []
    for protocol, summaries in _by_protocol(found).items():
        metric, more = JUDGED_BY[protocol]
        nfm = max(
            (s for name, s in summaries.items() if name.startswith("nfm-")),
            key=lambda summary: summary.valid if more else -summary.valid,
        )
        ours = nfm.mean(metric)
        bars = {
            f"{model} ({summaries[model].mean(metric):.4f})": summaries[model].mean(metric)
            for model in _RIVALS[protocol]
        }
        for name, bar in (_LEAST.get(protocol, {}) | bars).items():
            holds = ours >= bar if more else ours < bar
            lines.append(
                f"- {protocol}: {nfm.first.model} has test {metric} {ours:.4f}, "
                f"{'at least' if more else 'below'} {name}: {'holds' if holds else '**fails**'}"
            )
        verdicts = {model: summaries[model].beside_peer()[-1] for model in COMPARED}
        losers = [model for model, verdict in verdicts.items() if verdict.startswith("**")]
        lines.append(
            f"- {protocol}: each model is within noise of FuxiCTR's or better: "
            f"{'**fails** for ' + ', '.join(losers) if losers else 'holds'}"
        )
    return "\n".join(lines)


def _by_protocol(found: Iterable[Trained]) -> dict[str, dict[str, Summary]]:
    return {
        protocol: {
            model: Summary(list(of_model))
            for model, of_model in groupby(of_protocol, key=lambda run: run.model)
        }
        for protocol, of_protocol in groupby(found, key=lambda run: run.protocol)
    }


def _metrics(summaries: dict[str, Summary]) -> str:
    shared = [m for m in _METRICS if all(m in s.first.test for s in summaries.values())]
    rows = [
        [model, *map(summary.text, shared), f"{summary.first.parameters:,}", _epoch(summary)]
        for model, summary in summaries.items()
    ]
    return _table(["model", *(f"test {m}" for m in shared), "parameters", "s per epoch"], rows)


def _epoch(summary: Summary) -> str:
    return f"{statistics.median(run.epoch_s for run in summary.runs):.2f}"


def _chosen(summaries: dict[str, Summary]) -> str:
    keys = list(dict.fromkeys(key for s in summaries.values() for key in s.first.chosen))
    rows = [
        [model, *(_value(summary.first.chosen.get(key)) for key in keys)]
        for model, summary in summaries.items()
    ]
    head = ["best of", *(key.removeprefix("train.").removeprefix("model.") for key in keys)]
    of = next(iter(summaries.values())).first
    return (
        f"Of {of.trials} trials each; the whole config of the first is `{of.config}`.\n\n"
        f"{_table(head, rows)}"
    )


def _beside(summaries: dict[str, Summary]) -> str:
    metric, _ = JUDGED_BY[next(iter(summaries.values())).first.protocol]
    head = [f"test {metric} of", "ours", "FuxiCTR's", "difference", "noise", "ours is"]
    return _table(head, [[model, *summaries[model].beside_peer()] for model in COMPARED])


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{value['name']} {value['learning_rate']:g}"
    return f"{value:.2g}" if isinstance(value, float) else json.dumps(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
