"""The whole pipeline: build_features, train, evaluate and score, in this order.

At the end it prints one table of what each stage did.
"""

import argparse

from conf.schema import Config
from feature_eng.fields import unfitted_specs
from jobs import build_features, evaluate, score, train
from jobs.cli import Stage, day, main, parser
from nfm.registry import LATEST

EXAMPLES = """\
  python -m jobs.pipeline --config conf/movielens100k.yaml --ds 1998-04-23 --overwrite"""


def run(config: Config, options: argparse.Namespace) -> list[Stage]:
    """Run the stages; a failing one ends the run."""
    _check_score_table(config, options)  # before an hour of training, not after it
    stages = [build_features.run(config, options), train.run(config, options)]
    options.bundle = stages[-1].output
    stages += [evaluate.run(config, options), score.run(config, options)]
    return stages


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What the first stage would do; the others follow from what it makes."""
    day_to_score = _check_score_table(config, options)
    return [
        *build_features.plan(config, options),
        f"then train with {config.train.num_workers} workers -> {config.train.path}",
        f"evaluate on '{config.evaluate.split}' -> {config.evaluate.path}",
        f"score {day_to_score} -> {score.output(config, options.ds)}",
    ]


def _check_score_table(config: Config, options: argparse.Namespace) -> str:
    return score.check_day(config, unfitted_specs(config.fields), config.keys, options)


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    made.add_argument("--ds", type=day, required=True, help="day to score, YYYY-MM-DD")
    build_features.add_arguments(made)
    train.add_arguments(made)
    score.add_arguments(made)
    made.set_defaults(bundle=LATEST)
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
