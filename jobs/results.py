"""What a comparison of models found: trainings, summed up over seeds, and the tables of a page."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from conf.evaluation import HIGHER_IS_BETTER, Metric

# Those that NFM does better than, by He & Chua (2017).
RIVALS = ("fm", "fnn", "wide_deep", "deep_cross")
# Least difference of means that counts, as a share of theirs. A few seeds may lie close together by
# chance; and some 10,000 test rows make an AUC of 0.8 uncertain by twice as much.
_LEAST_NOISE = 0.0025


@dataclass(frozen=True)
class Trained:
    """A training with a model's best hyperparameters, judged on the test rows.

    Attributes:
        table: The config's name.
        model: As jobs/comparison.yaml calls it.
        seed: Of the training.
        metric: The one that judges: it stopped the training, and chose the hyperparameters.
        test: Metrics on the test rows.
        valid: ``metric`` on the validation rows.
        parameters: Numbers in the model, the embedding table's among them.
        epoch_s: Seconds of an epoch's steps, median.
        chosen: The hyperparameters, by dotted key.
        trials: Of the search for them.
        config: File that holds them.
        peer: ``metric`` on the test rows, of a peer's model with these hyperparameters and this
            seed; None if it did not train, or was not to.
    """

    table: str
    model: str
    seed: int
    metric: Metric
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
    """All seeds of a model on a table."""

    runs: Sequence[Trained]

    @property
    def first(self) -> Trained:
        """One for all, in what does not depend on the seed."""
        return self.runs[0]

    @property
    def figures(self) -> list[float]:
        """The metric that judges, on the test rows, by seed."""
        return self.of(self.first.metric)

    @property
    def mean(self) -> float:
        """Of ``figures``."""
        return statistics.fmean(self.figures)

    @property
    def valid(self) -> float:
        """The metric that judges, on the validation rows, the mean over the seeds."""
        return statistics.fmean(run.valid for run in self.runs)

    def of(self, metric: str) -> list[float]:
        """A test metric, by seed."""
        return [run.test[metric] for run in self.runs]

    def beside(self, theirs: Sequence[float]) -> list[str]:
        """Ours, theirs, the difference, what of it is noise, and what follows.

        Noise is two standard errors of the difference of both means, and ``_LEAST_NOISE`` of theirs
        at least.
        """
        ours, mean = self.figures, statistics.fmean(theirs)
        variance = (statistics.variance(ours) + statistics.variance(theirs)) / len(ours)
        noise = max(2 * math.sqrt(variance), _LEAST_NOISE * abs(mean))
        difference = statistics.fmean(ours) - mean
        gain = difference if HIGHER_IS_BETTER[self.first.metric] else -difference
        verdict = "better" if gain > noise else "within noise" if gain >= -noise else "**worse**"
        return [spread(ours), spread(theirs), f"{difference:+.4f}", f"{noise:.4f}", verdict]


def by_table(found: Iterable[Trained]) -> dict[str, dict[str, Summary]]:
    """The summaries of all models, by table."""
    return {
        table: {
            model: Summary(list(of_model))
            for model, of_model in groupby(of_table, key=lambda run: run.model)
        }
        for table, of_table in groupby(found, key=lambda run: run.table)
    }


def best_nfm(summaries: Mapping[str, Summary]) -> Summary:
    """NFM at the one of its depths that is best on the validation rows."""
    depths = [summary for model, summary in summaries.items() if model.startswith("nfm-")]
    more = HIGHER_IS_BETTER[depths[0].first.metric]
    return max(depths, key=lambda summary: summary.valid if more else -summary.valid)


def line(summary: Summary) -> str:
    """A model as a line of a terminal."""
    first = summary.first
    return f"{first.table} {first.model}: test {first.metric} {spread(summary.figures)}"


def tables(summaries: Mapping[str, Summary]) -> list[str]:
    """What the models came to, their hyperparameters, and NFM beside those it should beat."""
    return [_metrics(summaries), _chosen(summaries), _claim(summaries)]


def _metrics(summaries: Mapping[str, Summary]) -> str:
    shared = [
        metric
        for metric in (*HIGHER_IS_BETTER, "predicted_to_observed")
        if all(metric in run.test for summary in summaries.values() for run in summary.runs)
    ]
    rows = [
        [
            model,
            spread([run.valid for run in summary.runs]),
            *(spread(summary.of(metric)) for metric in shared),
            f"{summary.first.parameters:,}",
            f"{statistics.median(run.epoch_s for run in summary.runs):.2f}",
        ]
        for model, summary in summaries.items()
    ]
    decides = next(iter(summaries.values())).first.metric
    tested = [f"test {metric}" for metric in shared]
    head = ["model", f"valid {decides}", *tested, "parameters", "s per epoch"]
    return markdown(head, rows)


def _chosen(summaries: Mapping[str, Summary]) -> str:
    keys = list(dict.fromkeys(key for s in summaries.values() for key in s.first.chosen))
    rows = [
        [model, *(_value(summary.first.chosen.get(key)) for key in keys)]
        for model, summary in summaries.items()
    ]
    head = ["best of", *(key.removeprefix("train.").removeprefix("model.") for key in keys)]
    of = next(iter(summaries.values())).first
    return (
        f"Of {of.trials} trials each; a model's whole config is the best.yaml of its study, as "
        f"`{of.config}`.\n\n"
        f"{markdown(head, rows)}"
    )


def _claim(summaries: Mapping[str, Summary]) -> str:
    nfm = best_nfm(summaries)
    name = nfm.first.model
    head = [f"test {nfm.first.metric} beside", name, "its", "difference", "noise", f"{name} is"]
    return markdown(head, [[rival, *nfm.beside(summaries[rival].figures)] for rival in RIVALS])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over the seeds."""
    return f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict) and {"name", "learning_rate"} <= value.keys():
        return f"{value['name']} {value['learning_rate']:g}"
    return f"{value:.2g}" if isinstance(value, float) else json.dumps(value)
