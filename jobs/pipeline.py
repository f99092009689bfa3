"""The whole pipeline: build_features, train, evaluate and score, in this order.

At the end it prints one table of what each stage did.
"""

import argparse

from conf.schema import Config
from jobs import build_features, evaluate, score, train
from jobs.cli import Stage, main, parser
from nfm.bundle import LATEST

EXAMPLES = """\
  python -m jobs.pipeline --config conf/movielens100k.yaml --ds 1998-04-23 --overwrite"""


def run(config: Config, options: argparse.Namespace) -> list[Stage]:
    """Run the stages; a failing one ends the run."""
    stages = [build_features.run(config, options), train.run(config, options)]
    options.bundle = stages[-1].output
    stages += [evaluate.run(config, options), score.run(config, options)]
    return stages


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What the first stage would do; the others follow from what it makes."""
    return [
        *build_features.plan(config, options),
        f"then train -> {config.train.path}, evaluate on '{config.evaluate.split}' -> "
        f"{config.evaluate.path}, score {options.ds} -> {config.score.path}",
    ]


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    made.add_argument("--ds", type=score.day, required=True, help="day to score, YYYY-MM-DD")
    made.add_argument("--overwrite", action="store_true", help="replace features that exist")
    train.add_arguments(made)
    made.set_defaults(bundle=LATEST)
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
