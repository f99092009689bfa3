"""The two ends of batch scoring on Spark: raw rows of a day in, a partition of scores out."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf import storage
from conf.errors import DataError
from conf.manifest import Manifest
from conf.schema import ScoreConfig
from feature_eng.encode import encode_fields
from feature_eng.raw import KEYS, field_column, key_columns, named_column, read_raw
from feature_eng.write import count_rows

SCORE = "score"

ScoreBatches = Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]


def rows_of_day(spark: SparkSession, config: ScoreConfig, ds: str) -> DataFrame:
    """The raw rows of one day.

    Raises:
        ConfigError: The raw table is not there.
        DataError: It has no date column.
    """
    raw = read_raw(spark, config.raw_path)
    # As text: partition discovery makes a date of it, a plain column is often a string.
    return raw.where(named_column(raw, config.ds_column, "score.ds_column").cast("string") == ds)


def encode_rows(raw: DataFrame, manifest: Manifest, vocabulary: DataFrame) -> DataFrame:
    """Key columns (as one struct) and encoded fields, by the code that built the features.

    Raises:
        DataError: A column is missing or of the wrong type.
    """
    fields = [field_column(raw, field) for field in manifest.fields]
    rows = raw.select(*fields, key_columns(raw, manifest.keys))
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
    with storage.staged_directory(partition, overwrite=True) as staging:
        scores.write.mode("append").option("compression", "zstd").parquet(staging)
        written = count_rows(staging)
        if written != expected_rows:
            raise DataError(
                f"{written} scores of {expected_rows} rows came out for '{partition}': "
                f"nothing was published"
            )
        storage.write_text(f"{staging}/_config.yaml", config_yaml)
    return written
