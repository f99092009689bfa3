"""The two ends of batch scoring on Spark: raw rows of a day in, a partition of scores out."""

import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf import storage
from conf.errors import DataError
from conf.manifest import FieldSpec, Manifest
from conf.scoring import SCORE, ScoreConfig
from feature_eng.chunks import pack
from feature_eng.encode import encoded_chunks, local_ids
from feature_eng.raw import KEYS, field_column, key_columns, read_raw, rows_of_days
from feature_eng.vocabulary import Vocabulary
from feature_eng.workers import Batches, in_worker
from feature_eng.write import count_rows

# Spark ignores names with an underscore.
_CONFIG = "_config.yaml"
_BATCH_ROWS = 16_384

# Encoded columns of some rows (see ``feature_eng.encode``) to their scores, float64 [n].
ScoreColumns = Callable[[dict[str, npt.NDArray[Any]]], npt.NDArray[Any]]


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


def score_rows(
    ids: DataFrame,
    keys: T.StructField,
    manifest: Manifest,
    chunks: str,
    score_columns: ScoreColumns,
    model_id: str,
) -> DataFrame:
    """The scores contract: the key columns, ``score``, ``model_id`` and ``scored_at``.

    Args:
        ids: ``feature_eng.encode.local_ids`` of the chunks.
        keys: The field of the key columns in the canonical rows.
        manifest: Says how the rows are encoded.
        chunks: Where the chunks are.
        score_columns: The model.
        model_id: Its name.
    """
    schema = T.StructType([keys, T.StructField(SCORE, T.DoubleType(), nullable=False)])
    worker = functools.partial(
        _score_partition, fields=manifest.fields, chunks=chunks, score_columns=score_columns
    )
    now = datetime.now(UTC)
    return ids.mapInArrow(in_worker(worker), schema).select(
        f"{KEYS}.*", SCORE, F.lit(model_id).alias("model_id"), F.lit(now).alias("scored_at")
    )


def _score_partition(
    batches: Batches, fields: Sequence[FieldSpec], chunks: str, score_columns: ScoreColumns
) -> Batches:
    for rows, columns in encoded_chunks(batches, fields, chunks):
        scores = pa.array(score_columns(columns), pa.float64())
        yield from pa.table({KEYS: rows[KEYS], SCORE: scores}).to_batches(_BATCH_ROWS)


def publish_scores(
    raw: DataFrame,
    manifest: Manifest,
    vocabulary: Vocabulary,
    score_columns: ScoreColumns,
    model_id: str,
    partition: str,
    config_yaml: str,
) -> int:
    """Score rows and replace a partition by their scores: all of them or nothing.

    Args:
        raw: The rows.
        manifest: Says how they are encoded.
        vocabulary: The one that the manifest speaks of.
        score_columns: The model.
        model_id: Its name.
        partition: Its directory, ``<table>/ds=YYYY-MM-DD``.
        config_yaml: The resolved configuration, kept beside the scores.

    Returns:
        Rows published.

    Raises:
        DataError: There are no rows, a column is missing or of the wrong type, or not as many
            rows came out; the partition stays as it was.
    """
    with storage.staged_directory(partition, overwrite=True, proof=_CONFIG) as staging:
        chunks = storage.absolute(f"{staging}/.chunks")
        rows = canonical_score_rows(raw, manifest.fields, manifest.keys)
        packed = pack(rows, manifest.fields, chunks)
        if packed.rows == 0:
            raise DataError(f"there are no rows for '{partition}': nothing was scored")
        ids = local_ids(packed, vocabulary, manifest.fields)
        scores = score_rows(ids, rows.schema[KEYS], manifest, chunks, score_columns, model_id)
        scores.write.mode("append").option("compression", "zstd").parquet(staging)
        storage.remove(chunks)
        written = count_rows(staging)
        if written != packed.rows:
            raise DataError(
                f"{written} scores of {packed.rows} rows came out for '{partition}': "
                f"nothing was published"
            )
        storage.write_text(f"{staging}/{_CONFIG}", config_yaml)
    return written
