"""Score the raw rows of a day with a bundle: raw table + bundle -> a partition of scores."""

import argparse
import functools
import time

from conf.loader import dump_config
from conf.manifest import read_manifest
from conf.schema import Config
from feature_eng.scoring import (
    canonical_score_rows,
    count_rows_of_day,
    publish_scores,
    rows_of_day,
)
from feature_eng.vocabulary import read_vocabulary
from jobs.cli import Stage, day, main, parser
from jobs.session import spark_session
from nfm.bundle import load_bundle
from nfm.predict import score_columns
from nfm.registry import LATEST, resolve_bundle

EXAMPLES = """\
  python -m jobs.score --config conf/movielens100k.yaml --ds 1998-04-23
  spark-submit --py-files dist/nfm_pipeline-0.1.0.zip jobs/score.py \\
      --config X.yaml --ds 1998-04-23"""


def run(config: Config, options: argparse.Namespace) -> Stage:
    """Score the day and replace its partition."""
    start = time.monotonic()
    path = resolve_bundle(config.train.path, options.bundle)
    model_id = load_bundle(path).model_id  # a damaged one fails here, not in Spark's workers
    spark = spark_session(config.spark)
    manifest = read_manifest(path)
    vocabulary = read_vocabulary(spark, path, manifest.vocabulary_fingerprint)
    partition = f"{config.score.path}/ds={options.ds}"
    rows = publish_scores(
        rows_of_day(spark, config.score, options.ds),
        manifest,
        vocabulary,
        functools.partial(score_columns, path),
        model_id,
        partition,
        dump_config(config),
    )
    return Stage("score", rows, rows, rows, time.monotonic() - start, partition, {})


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What would be scored with what."""
    path = resolve_bundle(config.train.path, options.bundle)
    model_id = load_bundle(path).model_id
    manifest = read_manifest(path)
    raw = rows_of_day(spark_session(config.spark), config.score, options.ds)
    canonical_score_rows(raw, manifest.fields, manifest.keys)  # are all columns there?
    rows = count_rows_of_day(raw, config.score, options.ds)
    return [
        f"score: {rows:,} rows of {config.score.raw.name} for {options.ds} with "
        f"{model_id} -> {config.score.path}/ds={options.ds}"
    ]


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    made.add_argument("--ds", type=day, required=True, help="day to score, YYYY-MM-DD")
    made.add_argument("--bundle", default=LATEST, help="id, path or 'latest' (default)")
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
