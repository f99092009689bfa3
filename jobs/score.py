"""Score the raw rows of a day with a bundle: raw table + bundle -> a partition of scores."""

import argparse
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from conf.cells import as_pairs
from conf.errors import ConfigError, DataError
from conf.loader import dump_config, override_config
from conf.manifest import CheckResult, FieldSpec, SourceSpec
from conf.partition import (
    SCHEMA_VERSION,
    PartitionManifest,
    ScoreFile,
    partition_path,
)
from conf.schema import Config
from conf.scoring import MODEL_ID, SCORED_AT, ScoreConfig
from conf.software import software
from feature_eng.candidates import find_candidates
from feature_eng.gates import (
    check_keys,
    check_rows,
    check_scores,
    check_types,
    check_written,
    settle_gates,
)
from feature_eng.lake import manifest_of, publication
from feature_eng.scored_files import BlockEncoder, Found, ScoreWriter
from feature_eng.scoring import (
    canonical_score_rows,
    count_duplicates,
    kept_columns,
    rows_of_day,
    score_rows,
    scores_schema,
)
from jobs.cli import Stage, day, main, parser
from jobs.serving import Served, served
from jobs.session import spark_session
from nfm.bundle import Bundle, load_bundle
from nfm.predict import check_scorable
from nfm.registry import LATEST, resolve_bundle

EXAMPLES = """\
  python -m jobs.score --config conf/movielens100k.yaml --ds 1998-04-23
  python -m jobs.score --config X.yaml --ds 2026-01-02 --bundle serving --top-k 10 --by user_id
  spark-submit --py-files dist/nfm_pipeline-0.1.0.zip jobs/score.py \\
      --config X.yaml --ds 2026-01-02"""


logger = logging.getLogger("jobs")


class Clock:
    """Times the parts of a run, in seconds."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Give the time since the last part to this one."""
        now = time.monotonic()
        self.laps[part], self._last = round(now - self._last, 3), now

    def total(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began


def run(config: Config, options: argparse.Namespace) -> Stage:
    """Score the day and replace its partition."""
    clock = Clock()
    config = with_options(config, options)
    path = resolve_bundle(config.train.path, options.bundle)
    bundle = load_bundle(path)
    check_scorable(bundle, config.score.calibration, config.score.explain)
    spark = spark_session(config.spark)
    work = _work(spark, config, bundle.manifest.fields, bundle.manifest.keys, options)
    before = newest_before(config.score, options.ds)
    run_id = run_name(options.run_id)
    model = served(spark, path, bundle.manifest)
    with publication(spark, config.score, options.ds, run_id) as published:
        now = datetime.now(UTC)
        writer = ScoreWriter(
            encode=work.encode(model),
            fields=bundle.manifest.fields,
            load_scorer=model.scorer(config.score.calibration, config.score.explain),
            schema=scores_schema(work.kept, explained=config.score.explain > 0),
            constants={MODEL_ID: bundle.model_id, SCORED_AT: now},
            directory=published.directory,
            prefix=f"part-{run_id}",
            top_k=config.score.top_k,
            by=config.score.by,
        )
        clock.lap("prepare")
        files, found = score_rows(work.rows, writer, work.pairs)
        clock.lap("score")
        columns = {field.name: str(field.type) for field in writer.schema}
        checks = _check(config, bundle, before, columns, published.directory, files, found)
        settle_gates(checks, f"{work.source} of {options.ds}", forced=options.force)
        clock.lap("check")
        manifest = PartitionManifest(
            schema_version=SCHEMA_VERSION,
            ds=options.ds,
            run_id=run_id,
            model_id=bundle.model_id,
            vocabulary_fingerprint=bundle.manifest.vocabulary_fingerprint,
            source=SourceSpec(
                name=work.source, rows=found.rows, ds_from=options.ds, ds_to=options.ds
            ),
            rows=sum(file.rows for file in files),
            files=files,
            columns=columns,
            checks=checks,
            forced=options.force and any(check.outcome == "fail" for check in checks),
            score_cells=as_pairs(found.cells),
            seconds=clock.laps,
            config=dump_config(config),
            config_fingerprint=config.fingerprint(),
            software=software("pyspark", "pyarrow", "numpy", "torch"),
            created_at=now.isoformat(),
        )
        published.commit(manifest)
    facts = {"model": bundle.model_id, "gates": _told(checks)}
    seconds, wrote = clock.total(), output(config, options.ds)
    return Stage("score", found.rows, manifest.rows, found.rows, seconds, wrote, facts)


def output(config: Config, ds: str) -> str:
    """Where the scores of a day go."""
    return config.score.table or partition_path(config.score.path, ds)


@dataclass(frozen=True)
class Work:
    """What is to be scored.

    Attributes:
        rows: Canonical rows, or users to pair with items.
        kept: Columns of the scores that they have.
        encode: Makes of a served bundle what encodes the rows.
        source: What the record calls them.
        pairs: How many pairs the rows stand for; None where each is scored itself.
    """

    rows: DataFrame
    kept: T.StructType
    encode: Callable[[Served], BlockEncoder]
    source: str
    pairs: int | None = None


def _work(
    spark: SparkSession,
    config: Config,
    fields: Sequence[FieldSpec],
    keys: Sequence[str],
    options: argparse.Namespace,
) -> Work:
    # Of the bundle, which may have been trained with others than the configuration's.
    if config.score.by is not None and config.score.by not in keys:
        raise ConfigError(f"score.by: '{config.score.by}' is none of the keys {', '.join(keys)}")
    raw = rows_of_day(spark, config.score, options.ds)
    if options.candidates == "rows":
        rows = canonical_score_rows(raw, fields, keys, config.score.columns, config.score.optional)
        name = config.score.raw.name
        return Work(rows, kept_columns(rows), lambda model: model.encoder(fields), name)
    found = find_candidates(raw, config.score, fields, keys, options.ds)
    return Work(
        rows=found.users,
        kept=found.kept,
        encode=lambda model: model.pair_encoder(
            spark, found.items, found.user_fields, found.item_fields
        ),
        source=found.source,
        pairs=found.pairs,
    )


def _check(
    config: Config,
    bundle: Bundle,
    before: PartitionManifest | None,
    columns: dict[str, str],
    directory: str,
    files: Sequence[ScoreFile],
    found: Found,
) -> list[CheckResult]:
    """What the gates say of the scores."""
    gates, keys = config.score.gates, bundle.manifest.keys
    fields, reference = bundle.manifest.fields, bundle.scores.cells
    optional = config.score.optional
    checks = check_written(found, sum(file.rows for file in files), config.score.top_k, keys)
    checks += check_scores(gates, fields, found, reference, before, bundle.model_id, optional)
    if before:
        checks.append(check_types(columns, before))
    if gates.duplicate_keys != "ignore":
        duplicates = count_duplicates(directory, files)
        checks.append(check_keys(gates.duplicate_keys, duplicates, keys))
    return checks


def newest_before(config: ScoreConfig, ds: str) -> PartitionManifest | None:
    """The newest day of the week before that has rows to compare with: not every night does."""
    for days in range(1, 8):
        day_before = (date.fromisoformat(ds) - timedelta(days=days)).isoformat()
        try:
            manifest = manifest_of(config, day_before)
            if manifest and manifest.score_cells:
                return manifest
        except DataError as error:  # damaged, or of a newer release: no reason to have no scores
            logger.warning("%s; the gates take the day before it", error)
    return None


def _told(checks: Sequence[CheckResult]) -> str:
    counts = Counter(check.outcome for check in checks)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("pass", "warn", "fail"))


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What would be scored with what."""
    bundle = load_bundle(resolve_bundle(config.train.path, options.bundle))
    check_scorable(bundle, config.score.calibration, config.score.explain)
    told = check_day(config, bundle.manifest.fields, bundle.manifest.keys, options)
    return [f"score: {told} with {bundle.model_id} -> {output(config, options.ds)}"]


def check_day(
    config: Config, fields: Sequence[FieldSpec], keys: Sequence[str], options: argparse.Namespace
) -> str:
    """Refuse a day that could not be scored; says what there is."""
    config = with_options(config, options)
    work = _work(spark_session(config.spark), config, fields, keys, options)
    rows = work.rows.count() if work.pairs is None else work.pairs
    enough = check_rows(config.score.gates.min_rows, rows)
    settle_gates([enough], f"{work.source} of {options.ds}", forced=options.force)
    return f"{rows:,} rows of {work.source} for {options.ds}"


def with_options(config: Config, options: argparse.Namespace) -> Config:
    """The configuration with what the command line says otherwise."""
    values = {"score.top_k": options.top_k, "score.by": options.by}
    given = {key: value for key, value in values.items() if value is not None}
    return override_config(config, given, "--top-k, --by") if given else config


def run_name(given: str | None) -> str:
    """The name of a run as a part of file names: the scheduler's, or one of our own."""
    if given is None:
        given = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    return re.sub(r"[^A-Za-z0-9_-]", "-", given)


def add_arguments(made: argparse.ArgumentParser) -> None:
    """Options of scoring."""
    made.add_argument("--top-k", type=int, help="rows kept for each value of --by")
    made.add_argument("--by", help="key column whose values keep --top-k rows each")
    made.add_argument(
        "--candidates",
        choices=("rows", "cross"),
        default="rows",
        help="score the rows of the day, or each of its users with all items not seen",
    )
    made.add_argument("--force", action="store_true", help="publish though a gate failed")
    made.add_argument(
        "--run-id", help="the scheduler's name of this run: a Delta table takes it once"
    )


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    made.add_argument("--ds", type=day, required=True, help="day to score, YYYY-MM-DD")
    made.add_argument("--bundle", default=LATEST, help="id, alias, path or 'latest' (default)")
    add_arguments(made)
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
