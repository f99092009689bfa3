"""The build of a version of the features: raw table in, directory with a manifest out."""

import logging
import math
from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf import publishing, storage
from conf.errors import DataError, RunError
from conf.fields import LABEL, WEIGHT, VocabularyOptions
from conf.loader import dump_config
from conf.manifest import (
    FILE_NAME,
    SCHEMA_VERSION,
    CheckResult,
    FieldSpec,
    Manifest,
    SourceSpec,
    SplitSpec,
    read_manifest,
    write_manifest,
)
from conf.schema import SPLITS, Config
from conf.software import software
from feature_eng import checks as contract
from feature_eng.base import Base, read_base
from feature_eng.canonical import canonical_rows
from feature_eng.chunks import Packed, pack
from feature_eng.encode import local_ids
from feature_eng.fields import fitted_specs, unfitted_specs, with_rates
from feature_eng.indexing import index_fields
from feature_eng.parquet_texts import find_texts
from feature_eng.profile import Profile, make_profile, observe, quantile_columns
from feature_eng.raw import KEYS, read_raw, rows_of_days
from feature_eng.vocabulary import (
    Vocabulary,
    fit_vocabulary,
    measured,
    open_vocabulary,
    write_vocabulary,
)
from feature_eng.write import SplitWriter, WrittenSplit, write_splits

logger = logging.getLogger(__name__)


def build_features(
    spark: SparkSession,
    config: Config,
    *,
    overwrite: bool,
    ds_from: str | None = None,
    ds_to: str | None = None,
    base: str | None = None,
) -> Manifest:
    """Build ``config.features.path`` from ``config.raw``; all of it or nothing.

    Args:
        spark: The session.
        config: The run.
        overwrite: Whether to replace features that exist.
        ds_from: First day of the raw rows, YYYY-MM-DD; None for all.
        ds_to: Last day.
        base: Earlier features whose ids, edges and scales are kept; None to begin anew.

    Raises:
        ConfigError: The raw table is not there, the output is and may not be replaced, or a field
            is not encoded as in the base.
        DataError: The raw table broke the contract.
        RunError: Another run builds the same features.
    """
    with publishing.staged_directory(
        config.features.path, overwrite=overwrite, proof=FILE_NAME
    ) as staging:
        raw = rows_of_days(read_raw(spark, config.raw), config.raw, ds_from, ds_to)
        unfitted = unfitted_specs(config.fields)
        grown = read_base(spark, base, unfitted) if base else None
        chunks = storage.absolute(f"{staging}/.chunks")
        packed, profile, found = _pack(raw, config, grown, chunks)
        indexed, vocabulary = _make_vocabulary(spark, packed, config, grown, staging)
        fields = fitted_specs(unfitted, config.fields, profile, vocabulary.sizes, grown)
        written = write_splits(
            local_ids(packed, vocabulary, fields, indexed),
            _writer(config, profile, fields, grown, packed, indexed, storage.absolute(staging)),
        )
        _refuse_lost_rows(profile, written)
        fields = with_rates(fields, written)
        storage.remove(chunks)
        checks = _check(config, dict(raw.dtypes), found, profile, fields, written, grown)
        storage.write_text(f"{staging}/config.yaml", dump_config(config))
        manifest = _manifest(
            config,
            profile,
            fields,
            written,
            checks,
            vocabulary=vocabulary.fingerprint,
            base=grown.manifest.vocabulary_fingerprint if grown else None,
            source=SourceSpec(
                name=config.raw.name,
                rows=_raw_rows(config, profile),
                ds_from=ds_from,
                ds_to=ds_to,
            ),
        )
        write_manifest(staging, manifest)
    return manifest


def _pack(
    raw: DataFrame, config: Config, base: Base | None, chunks: str
) -> tuple[Packed, Profile, dict[str, int]]:
    """Write the raw rows as chunks, and in the same pass count, check and fit.

    Returns the chunks, the profile, and what the checks of the raw columns counted.
    """
    fitted = [field.name for field in base.manifest.fields] if base else []
    fits, checks = quantile_columns(config, fitted), contract.statistics(config.checks.columns)
    fields = unfitted_specs(config.fields)
    texts = find_texts(raw, config, fields)
    logger.info("texts that workers read by themselves: %s", ", ".join(texts.columns) or "none")
    observed, found = observe(canonical_rows(raw, config, texts.columns), fits | checks)
    packed = pack(observed.drop(KEYS, contract.CHECKED), fields, chunks, texts)
    values = found()
    profile = make_profile(packed.tally, values, config)
    logger.info("rows: %s", profile.rows)
    return packed, profile, {name: values[name] for name in checks}


def _make_vocabulary(
    spark: SparkSession, packed: Packed, config: Config, base: Base | None, staging: str
) -> tuple[dict[str, str], Vocabulary]:
    """Write the vocabulary; of the fields that were small enough, return the files of the ids."""
    indexed, known = index_fields(spark, packed, config.fields, base, staging)
    others = [field for field in config.fields if field.name not in indexed]
    if not indexed or any(isinstance(field, VocabularyOptions) for field in others):
        dictionaries = packed.dictionaries(spark)
        large = fit_vocabulary(dictionaries, others, base.vocabulary if base else None)
        write_vocabulary(large, staging)
        written = open_vocabulary(spark, staging)
        known |= measured(written.where(~F.col("field").isin(*indexed))).fields
    return indexed, Vocabulary(open_vocabulary(spark, staging), known)


def _raw_rows(config: Config, profile: Profile) -> int:
    """Rows of the raw table: others were drawn, as negatives, for every row with label 1."""
    per_positive = config.negatives.per_positive if config.negatives else 0
    return sum(profile.rows.values()) - per_positive * sum(profile.positives.values())


def _refuse_lost_rows(profile: Profile, written: dict[str, WrittenSplit]) -> None:
    for split in SPLITS:
        rows = sum(file.rows for file in written[split].files)
        if rows != profile.rows[split]:
            raise RunError(
                f"{rows} rows came out in '{split}', but {profile.rows[split]} went in: nothing "
                f"was published; build again, and report it if it stays"
            )


def _check(
    config: Config,
    types: dict[str, str],
    found: dict[str, int],
    profile: Profile,
    fields: list[FieldSpec],
    written: dict[str, WrittenSplit],
    base: Base | None,
) -> list[CheckResult]:
    """Hold the build against its contract before anything is published."""
    results = contract.check_columns(config.checks.columns, types, found)
    previous = base.manifest if base else _replaced(config)
    results += contract.check_build(config, _raw_rows(config, profile), profile, fields, previous)
    if base:
        results += contract.check_drift(config.checks, fields, written["train"], base)
    return contract.settle(results, config.checks.on_breach)


def _replaced(config: Config) -> Manifest | None:
    """The manifest of the version that is replaced, if there is one that this release reads."""
    try:
        return read_manifest(config.features.path)
    except DataError:
        return None


def _writer(
    config: Config,
    profile: Profile,
    fields: list[FieldSpec],
    base: Base | None,
    packed: Packed,
    indexed: dict[str, str],
    staging: str,
) -> SplitWriter:
    workers = config.train.num_workers
    then = [base.field(field.name) if base else None for field in fields]
    return SplitWriter(
        directory=staging,
        packed=packed,
        indexed=indexed,
        fields=fields,
        loss_columns=[LABEL, *([WEIGHT] if config.weight else [])],
        num_files=workers
        * math.ceil(max(profile.rows.values()) / (workers * config.features.row_group_rows)),
        known_then=[
            (before or field).cardinality for before, field in zip(then, fields, strict=True)
        ],
    )


def _manifest(
    config: Config,
    profile: Profile,
    fields: list[FieldSpec],
    written: dict[str, WrittenSplit],
    checks: list[CheckResult],
    *,
    vocabulary: str,
    base: str | None,
    source: SourceSpec,
) -> Manifest:
    binary = config.task == "binary"
    splits = {}
    for split in SPLITS:
        positives = profile.positives[split] if binary else None
        splits[split] = SplitSpec(
            files=written[split].files, rows=profile.rows[split], positives=positives
        )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=config.name,
        task=config.task,
        keys=config.keys,
        label=config.label,
        weight=config.weight,
        label_range=None if binary else list(profile.label_range),
        fields=fields,
        num_features=sum(field.cardinality for field in fields),
        splits=splits,
        vocabulary_fingerprint=vocabulary,
        base_fingerprint=base,
        source=source,
        checks=checks,
        config_fingerprint=config.fingerprint(),
        software=software("pyspark", "pyarrow", "numpy"),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
