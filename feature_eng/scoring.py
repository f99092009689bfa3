"""The two ends of batch scoring on Spark: raw rows of a day in, a partition of scores out."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf import storage
from conf.errors import DataError
from conf.manifest import FieldSpec, Manifest
from conf.schema import SCORE, ScoreConfig
from feature_eng.encode import encode_fields
from feature_eng.raw import KEYS, field_column, key_columns, read_raw, rows_of_days
from feature_eng.write import count_rows

# Spark ignores names with an underscore.
_CONFIG = "_config.yaml"

ScoreBatches = Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]


def rows_of_day(spark: SparkSession, config: ScoreConfig, ds: str) -> DataFrame:
    """The raw rows of one day.

    Raises:
        ConfigError: The raw table is not there.
        DataError: It has no date column.
    """
    return rows_of_days(read_raw(spark, config.raw), config.raw, ds, ds)


def count_rows_of_day(raw: DataFrame, config: ScoreConfig, ds: str) -> int:
    """The number of rows to score.

    Raises:
        DataError: There are none.
    """
    rows = raw.count()
    if rows == 0:
        raise DataError(f"'{config.raw.name}' has no rows for {ds}: nothing was scored")
    return rows


def canonical_score_rows(
    raw: DataFrame, fields: Sequence[FieldSpec], keys: Sequence[str]
) -> DataFrame:
    """Key columns (as one struct) and fields in canonical types.

    Raises:
        DataError: A column is missing or of the wrong type.
    """
    return raw.select(*[field_column(raw, field) for field in fields], key_columns(raw, keys))


def encode_rows(raw: DataFrame, manifest: Manifest, vocabulary: DataFrame) -> DataFrame:
    """Key columns (as one struct) and encoded fields, by the code that built the features.

    Raises:
        DataError: A column is missing or of the wrong type.
    """
    rows = canonical_score_rows(raw, manifest.fields, manifest.keys)
    return encode_fields(rows, manifest.fields, vocabulary)


def score_rows(encoded: DataFrame, score_batches: ScoreBatches, model_id: str) -> DataFrame:
    """The scores contract: the key columns, ``score``, ``model_id`` and ``scored_at``."""
    keys = encoded.schema[KEYS]
    schema = T.StructType([keys, T.StructField(SCORE, T.DoubleType(), nullable=False)])
    now = datetime.now(UTC)
    return encoded.mapInArrow(score_batches, schema).select(
        f"{KEYS}.*", SCORE, F.lit(model_id).alias("model_id"), F.lit(now).alias("scored_at")
    )


def publish_scores(
    scores: DataFrame, partition: str, *, expected_rows: int, config_yaml: str
) -> int:
    """Replace a partition by these scores: all of them or nothing.

    Args:
        scores: What to publish.
        partition: Its directory, ``<table>/ds=YYYY-MM-DD``.
        expected_rows: Rows that must come out.
        config_yaml: The resolved configuration, kept beside the scores.

    Returns:
        Rows published.

    Raises:
        DataError: Not as many rows came out; the partition stays as it was.
    """
    with storage.staged_directory(partition, overwrite=True, proof=_CONFIG) as staging:
        scores.write.mode("append").option("compression", "zstd").parquet(staging)
        written = count_rows(staging)
        if written != expected_rows:
            raise DataError(
                f"{written} scores of {expected_rows} rows came out for '{partition}': "
                f"nothing was published"
            )
        storage.write_text(f"{staging}/{_CONFIG}", config_yaml)
    return written
