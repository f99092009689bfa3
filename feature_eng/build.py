"""The build of a version of the features: raw table in, directory with a manifest out."""

import logging
import math
from datetime import UTC, datetime
from importlib.metadata import version

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf import storage
from conf.errors import DataError
from conf.fields import LABEL
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
from feature_eng.base import read_base
from feature_eng.encode import encode_fields
from feature_eng.fields import fitted_specs, unfitted_specs
from feature_eng.negatives import DRAWN, with_negatives
from feature_eng.profile import Profile, profile_rows
from feature_eng.raw import (
    DAY,
    SPLIT,
    day_column,
    field_column,
    key_columns,
    label_column,
    read_raw,
    rows_of_days,
    weight_column,
)
from feature_eng.split import split_column
from feature_eng.vocabulary import (
    fingerprint,
    fit_vocabulary,
    read_vocabulary,
    vocabulary_sizes,
    write_vocabulary,
)
from feature_eng.write import list_files, with_rates, write_splits

logger = logging.getLogger(__name__)


def canonical_rows(raw: DataFrame, config: Config) -> DataFrame:
    """Label, weight, fields, keys, split and day of every row, raw or drawn, in canonical types.

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
    return raw.select(label, *weights, *columns, keys, split, day)


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
    """
    storage.refuse_existing(config.features.path, overwrite=overwrite, proof=FILE_NAME)
    raw = rows_of_days(read_raw(spark, config.raw), config.raw, ds_from, ds_to)
    rows = canonical_rows(raw, config)
    unfitted = unfitted_specs(config.fields)
    grown = read_base(spark, base, unfitted) if base else None
    profile = profile_rows(rows, config)
    logger.info("%d rows: %s", sum(profile.rows.values()), profile.rows)
    workers, train_rows = config.train.num_workers, profile.rows["train"]
    # Each row with label 1 had its negatives drawn.
    per_positive = config.negatives.per_positive if config.negatives else 0
    num_drawn = per_positive * int(sum(profile.positives.values()))
    with storage.staged_directory(
        config.features.path, overwrite=overwrite, proof=FILE_NAME
    ) as staging:
        train = rows.where(F.col(SPLIT) == "train")
        write_vocabulary(
            fit_vocabulary(train, config.fields, grown.vocabulary if grown else None), staging
        )
        vocabulary = read_vocabulary(spark, staging)
        sizes = vocabulary_sizes(vocabulary)
        fields = fitted_specs(unfitted, config.fields, profile, sizes, grown)
        encoded = encode_fields(rows.drop(DAY), fields, vocabulary).withColumn(
            LABEL, F.col(LABEL).cast("float")
        )
        write_splits(
            encoded,
            staging,
            num_files=workers * math.ceil(train_rows / (workers * config.features.row_group_rows)),
            seed=config.features.seed,
        )
        storage.write_text(f"{staging}/config.yaml", dump_config(config))
        fields = with_rates(spark, staging, fields)
        manifest = _manifest(
            config,
            profile,
            fields,
            vocabulary=fingerprint(vocabulary),
            base=grown.manifest.vocabulary_fingerprint if grown else None,
            source=SourceSpec(
                name=config.raw.name,
                rows=sum(profile.rows.values()) - num_drawn,
                ds_from=ds_from,
                ds_to=ds_to,
            ),
            staging=staging,
        )
        write_manifest(staging, manifest)
    return manifest


def _manifest(
    config: Config,
    profile: Profile,
    fields: list[FieldSpec],
    *,
    vocabulary: str,
    base: str | None,
    source: SourceSpec,
    staging: str,
) -> Manifest:
    binary = config.task == "binary"
    splits = {}
    for split in SPLITS:
        files = list_files(staging, split)
        rows = sum(file.rows for file in files)
        if rows != profile.rows[split]:
            raise DataError(
                f"{rows} rows written to '{split}', but {profile.rows[split]} were counted before: "
                f"the raw table changed during the build, or an expr is not deterministic"
            )
        positives = int(profile.positives[split]) if binary else None
        splits[split] = SplitSpec(files=files, rows=rows, positives=positives)
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
