"""The whole pipeline: build_features, train, evaluate and score, in this order.

At the end it prints one table of what each stage did.
"""

import argparse

from conf.schema import Config
from feature_eng.fields import unfitted_specs
from feature_eng.gates import check_rows, settle_gates
from feature_eng.scoring import canonical_score_rows, rows_of_day
from jobs import build_features, evaluate, score, train
from jobs.cli import Stage, day, main, parser
from jobs.session import spark_session
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
    rows = _check_score_table(config, options)
    return [
        *build_features.plan(config, options),
        f"then train with {config.train.num_workers} workers -> {config.train.path}",
        f"evaluate on '{config.evaluate.split}' -> {config.evaluate.path}",
        f"score {rows:,} rows for {options.ds} -> {config.score.path}",
    ]


def _check_score_table(config: Config, options: argparse.Namespace) -> int:
    """Refuse a table that could not be scored; returns its rows."""
    raw = rows_of_day(spark_session(config.spark), config.score, options.ds)
    kept = [*config.keys, *config.score.columns]
    canonical_score_rows(raw, unfitted_specs(config.fields), kept, config.score.optional)
    rows = raw.count()
    enough = check_rows(config.score.gates.min_rows, rows)
    settle_gates([enough], f"{config.score.raw.name} of {options.ds}", forced=options.force)
    return rows


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
