"""Build a version of the features: raw table -> vocabularies, encoded splits, manifest."""

import argparse
import time

from conf import publishing
from conf.manifest import FILE_NAME
from conf.schema import SPLITS, Config
from feature_eng.base import read_base
from feature_eng.build import build_features
from feature_eng.canonical import canonical_rows
from feature_eng.fields import unfitted_specs
from feature_eng.profile import profile_rows
from feature_eng.raw import read_raw, rows_of_days
from jobs.cli import Stage, day, main, parser
from jobs.session import spark_session
from nfm.registry import ALIASES, LATEST, resolve_start

EXAMPLES = """\
  python -m jobs.build_features --config conf/movielens100k.yaml
  python -m jobs.build_features --config conf/movielens100k.yaml --overwrite \\
      --set features.path=build/demo/features/v2 --set split.seed=7
  python -m jobs.build_features --config X.yaml --ds-from 2026-11-01 --ds-to 2026-11-23 \\
      --base lake/features/v1 --set features.path=lake/features/v2
  spark-submit --py-files dist/nfm_pipeline-0.1.0.zip jobs/build_features.py --config X.yaml"""


def run(config: Config, options: argparse.Namespace) -> Stage:
    """Build, and say what was built."""
    start = time.monotonic()
    spark = spark_session(config.spark)
    manifest = build_features(
        spark,
        config,
        overwrite=options.overwrite,
        ds_from=options.ds_from,
        ds_to=options.ds_to,
        base=_base(config, options),
    )
    rows = sum(split.rows for split in manifest.splits.values())
    facts = {
        "fields": str(len(manifest.fields)),
        "features": f"{manifest.num_features:,}",
        "vocabulary": manifest.vocabulary_fingerprint,
    }
    seconds = time.monotonic() - start
    read = manifest.source.rows
    return Stage("build_features", read, rows, read, seconds, config.features.path, facts)


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What would be read and written."""
    publishing.refuse_existing(config.features.path, overwrite=options.overwrite, proof=FILE_NAME)
    raw = read_raw(spark_session(config.spark), config.raw)
    raw = rows_of_days(raw, config.raw, options.ds_from, options.ds_to)
    fields = unfitted_specs(config.fields)
    if base := _base(config, options):
        read_base(raw.sparkSession, base, fields)
    profile = profile_rows(canonical_rows(raw, config), config, fields)
    kinds = [f"  {field.name}: {field.kind} of {field.source}" for field in fields]
    drawn = config.negatives
    negatives = [f"negatives: {drawn.per_positive} per positive, {drawn.strategy}"] if drawn else []
    return [
        f"build_features: {config.raw.name} ({len(raw.columns)} columns) -> {config.features.path}",
        f"label: {config.label.column} ({config.task}), split: {config.split.kind}",
        *([f"weight: {config.weight}"] if config.weight else []),
        *negatives,
        "rows: " + ", ".join(f"{split} {profile.rows[split]:,}" for split in SPLITS),
        f"{len(kinds)} fields:",
        *kinds,
    ]


def _base(config: Config, options: argparse.Namespace) -> str | None:
    """The directory that the vocabulary grows from."""
    if options.base in (LATEST, *ALIASES):
        return resolve_start(config.train.path, options.base)
    base: str | None = options.base
    return base


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    add_arguments(made)
    return made


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The arguments of a build, also for a pipeline."""
    made.add_argument("--overwrite", action="store_true", help="replace features that exist")
    made.add_argument("--ds-from", type=day, help="first day of the raw rows, YYYY-MM-DD")
    made.add_argument("--ds-to", type=day, help="last day of the raw rows")
    made.add_argument(
        "--base",
        help="earlier features or a bundle, by path, or the bundle that is 'latest', 'serving' or "
        "'candidate': what they know keeps its id",
    )


if __name__ == "__main__":
    main(arguments(), run, plan)
