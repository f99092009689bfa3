"""Compare the models of He & Chua (SIGIR 2017) on MovieLens-100K: ``make reproduce``.

``jobs.compare`` on the tables of conf/reproduce/, ratings.yaml and implicit.yaml, both at once. The
same models as FuxiCTR has them train beside ours in .venv-peers, of NFM one depth, with the same
hyperparameters and seeds, twice as many as the other tables show. What is done is not done again:
kill it at any time, and run it again.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks import machine
from benchmarks.beside import train_beside
from benchmarks.report import write_docs
from conf.evaluation import HIGHER_IS_BETTER
from conf.loader import load_config
from jobs.comparison import SEEDS, Peer, compare
from jobs.results import Summary, Trained, best_nfm, by_table, markdown, spread, tables

COMMAND = "make reproduce"
CONFIGS = [f"conf/reproduce/{name}.yaml" for name in ("ratings", "implicit")]
# Each of the six models, of NFM's depths the paper's.
FUXICTR = Peer(
    train=train_beside,
    models=("lr", "fm", "fnn", "wide_deep", "deep_cross", "nfm-1"),
    seeds=(*SEEDS, 4, 5, 6),
)
# What the NFM is to reach: a figure, and other models.
_LEAST = {"ratings": {"0.790": 0.790}}
_RIVALS = {"ratings": ("fm",), "implicit": ("fm", "wide_deep", "deep_cross")}


def main() -> None:
    """Do what is left, print the floors, write the page; exit code 1 if a floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, help="page to write the tables into")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    options = parser.parse_args()
    began = time.monotonic()
    found = compare([load_config(path, options.sets) for path in CONFIGS], FUXICTR)
    print(floors(found))
    if options.docs:
        minutes = (time.monotonic() - began) / 60
        about = f"Written on {machine.describe()}; {minutes:.0f} minutes since it was started last."
        write_docs(options.docs, COMMAND, f"{about}\n\n{page(found)}")
    sys.exit("**fails**" in floors(found))


def page(found: Iterable[Trained]) -> str:
    """The tables of both protocols, and the floors."""
    found = list(found)
    beside, parts = by_table(found), list[str]()
    for protocol, summaries in by_table(_of_tables(found)).items():
        parts += [f"### {protocol}", *tables(summaries), _beside(beside[protocol])]
    return "\n\n".join([*parts, "### Floors", floors(found)])


def floors(found: Iterable[Trained]) -> str:
    """What the comparison should come to, one line each, and whether it does."""
    found = list(found)
    beside, lines = by_table(found), list[str]()
    for protocol, summaries in by_table(_of_tables(found)).items():
        nfm = best_nfm(summaries)
        metric = nfm.first.metric
        more = HIGHER_IS_BETTER[metric]
        rivals = {model: summaries[model].mean for model in _RIVALS[protocol]}
        bars = {f"{model} ({mean:.4f})": mean for model, mean in rivals.items()}
        for name, bar in (_LEAST.get(protocol, {}) | bars).items():
            holds = nfm.mean >= bar if more else nfm.mean < bar
            lines.append(
                f"- {protocol}: {nfm.first.model} has test {metric} {nfm.mean:.4f}, "
                f"{'at least' if more else 'below'} {name}: {'holds' if holds else '**fails**'}"
            )
        verdicts = {name: beside_peer(beside[protocol][name])[-1] for name in FUXICTR.models}
        losers = [model for model, verdict in verdicts.items() if verdict.startswith("**")]
        lines.append(
            f"- {protocol}: each model is within noise of FuxiCTR's or better: "
            f"{'**fails** for ' + ', '.join(losers) if losers else 'holds'}"
        )
    return "\n".join(lines)


def _of_tables(found: Iterable[Trained]) -> list[Trained]:
    """Those of the seeds that every model has."""
    return [run for run in found if run.seed in SEEDS]


def beside_peer(summary: Summary) -> list[str]:
    """Ours, FuxiCTR's, the difference, what of it is noise, and what follows."""
    theirs = [run.peer for run in summary.runs if run.peer is not None]
    if len(theirs) < len(summary.runs):
        return [spread(summary.figures), "-", "-", "-", "**did not train**"]
    return summary.beside(theirs)


def _beside(summaries: Mapping[str, Summary]) -> str:
    metric = next(iter(summaries.values())).first.metric
    head = [f"test {metric} of", "ours", "FuxiCTR's", "difference", "noise", "ours is"]
    return markdown(head, [[model, *beside_peer(summaries[model])] for model in FUXICTR.models])


if __name__ == "__main__":
    main()
