"""The build of a version of the features: raw table in, directory with a manifest out."""

import logging
import math
from datetime import UTC, datetime
from importlib.metadata import version

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from conf import storage
from conf.errors import RunError
from conf.fields import LABEL, WEIGHT
from conf.loader import dump_config
from conf.manifest import (
    FILE_NAME,
    SCHEMA_VERSION,
    FieldSpec,
    Manifest,
    SourceSpec,
    SplitSpec,
    write_manifest,
)
from conf.schema import SPLITS, Config
from feature_eng.base import Base, read_base
from feature_eng.chunks import pack, read_dictionaries
from feature_eng.encode import local_ids
from feature_eng.fields import fitted_specs, unfitted_specs, with_rates
from feature_eng.negatives import DRAWN, with_negatives
from feature_eng.profile import Profile, read_profile, statistics
from feature_eng.raw import (
    KEYS,
    ORDER,
    day_column,
    field_column,
    key_columns,
    label_column,
    read_raw,
    rows_of_days,
    weight_column,
)
from feature_eng.split import key_hash, split_column
from feature_eng.vocabulary import (
    fingerprint,
    fit_vocabulary,
    read_vocabulary,
    vocabulary_sizes,
    write_vocabulary,
)
from feature_eng.write import SplitWriter, WrittenSplit, write_splits

logger = logging.getLogger(__name__)


def canonical_rows(raw: DataFrame, config: Config) -> DataFrame:
    """Label, weight, fields, split, day and order of every row, raw or drawn, in canonical types.

    Raises:
        DataError: A configured column is missing or of the wrong type, or negatives cannot be
            drawn.
    """
    label, keys = label_column(raw, config.label), key_columns(raw, config.keys)
    weights = [weight_column(raw, config.weight)] if config.weight else []
    columns = [field_column(raw, spec) for spec in unfitted_specs(config.fields)]
    split, day = split_column(raw, keys, config.split), day_column(raw, config.raw)
    if config.negatives is not None:
        raw = with_negatives(
            raw, config.negatives, keys=keys, positive=label == 1, train=split == "train"
        )
        label = F.when(F.col(DRAWN), 0.0).otherwise(label).alias(LABEL)
    rows = raw.select(label, *weights, *columns, keys, split, day)
    row = key_hash(F.struct(*rows.columns), config.features.seed)
    return rows.withColumn(ORDER, row).drop(KEYS)


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
    with storage.staged_directory(
        config.features.path, overwrite=overwrite, proof=FILE_NAME
    ) as staging:
        raw = rows_of_days(read_raw(spark, config.raw), config.raw, ds_from, ds_to)
        unfitted = unfitted_specs(config.fields)
        grown = read_base(spark, base, unfitted) if base else None
        chunks = storage.absolute(f"{staging}/.chunks")
        profile = _pack(canonical_rows(raw, config), config, chunks)
        dictionaries = read_dictionaries(spark, chunks)
        write_vocabulary(
            fit_vocabulary(dictionaries, config.fields, grown.vocabulary if grown else None),
            staging,
        )
        vocabulary = read_vocabulary(spark, staging)
        sizes = vocabulary_sizes(vocabulary)
        fields = fitted_specs(unfitted, config.fields, profile, sizes, grown)
        written = write_splits(
            local_ids(dictionaries, vocabulary, fields),
            _writer(config, profile, fields, grown, chunks, storage.absolute(staging)),
        )
        storage.remove(chunks)
        storage.write_text(f"{staging}/config.yaml", dump_config(config))
        manifest = _manifest(
            config,
            profile,
            with_rates(fields, written),
            written,
            vocabulary=fingerprint(vocabulary),
            base=grown.manifest.vocabulary_fingerprint if grown else None,
            source=SourceSpec(
                name=config.raw.name,
                rows=sum(profile.rows.values()) - _num_drawn(config, profile),
                ds_from=ds_from,
                ds_to=ds_to,
            ),
        )
        write_manifest(staging, manifest)
    return manifest


def _pack(rows: DataFrame, config: Config, chunks: str) -> Profile:
    """Write the rows as chunks, and in the same pass count, check and fit."""
    seen = Observation()
    # By position: a field's name would be read as a part of an expression.
    wanted = [
        column.alias(f"m{number}") for number, column in enumerate(statistics(config).values())
    ]
    packed = pack(rows.observe(seen, *wanted), unfitted_specs(config.fields), chunks)
    profile = read_profile((seen.get[f"m{number}"] for number in range(len(wanted))), config)
    logger.info("%d rows: %s", packed, profile.rows)
    return profile


def _num_drawn(config: Config, profile: Profile) -> int:
    """Rows that no raw table holds: every row with label 1 had its negatives drawn."""
    per_positive = config.negatives.per_positive if config.negatives else 0
    return per_positive * int(sum(profile.positives.values()))


def _writer(
    config: Config,
    profile: Profile,
    fields: list[FieldSpec],
    base: Base | None,
    chunks: str,
    staging: str,
) -> SplitWriter:
    workers = config.train.num_workers
    then = [base.field(field.name) if base else None for field in fields]
    return SplitWriter(
        directory=staging,
        chunks=chunks,
        fields=fields,
        loss_columns=[LABEL, *([WEIGHT] if config.weight else [])],
        num_files=workers
        * math.ceil(profile.rows["train"] / (workers * config.features.row_group_rows)),
        known_then=[
            (before or field).cardinality for before, field in zip(then, fields, strict=True)
        ],
    )


def _manifest(
    config: Config,
    profile: Profile,
    fields: list[FieldSpec],
    written: dict[str, WrittenSplit],
    *,
    vocabulary: str,
    base: str | None,
    source: SourceSpec,
) -> Manifest:
    binary = config.task == "binary"
    splits = {}
    for split in SPLITS:
        rows = sum(file.rows for file in written[split].files)
        if rows != profile.rows[split]:
            raise RunError(
                f"{rows} rows came out in '{split}', but {profile.rows[split]} went in: nothing "
                f"was published; build again, and report it if it stays"
            )
        positives = int(profile.positives[split]) if binary else None
        splits[split] = SplitSpec(files=written[split].files, rows=rows, positives=positives)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=config.name,
        task=config.task,
        keys=config.keys,
        label=config.label,
        weight=config.weight,
        fields=fields,
        num_features=sum(field.cardinality for field in fields),
        splits=splits,
        vocabulary_fingerprint=vocabulary,
        base_fingerprint=base,
        source=source,
        config_fingerprint=config.fingerprint(),
        software={name: version(name) for name in ("pyspark", "pyarrow", "numpy")},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
