"""The vocabulary: which known value of which field has which local id.

One table for all fields, columns ``field, value, id, count``. Nothing of it is collected on the
driver but its size per field.
"""

from collections.abc import Sequence

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from conf.errors import DataError
from conf.manifest import FIRST_KNOWN, VOCABULARY
from conf.schema import CategoricalField, FieldConfig, MultiValuedField


def fit_vocabulary(rows: DataFrame, fields: Sequence[FieldConfig]) -> DataFrame:
    """Count every field's values in one pass and number those that reach ``min_count``.

    Args:
        rows: Canonical training rows.
        fields: All fields; those without a vocabulary are passed over.

    Returns:
        ``field string, value string, id int, count bigint``; within a field ids run from 2, by
        count descending, then by value in byte order. A row counts once for each value it holds.
    """
    pairs = []
    min_counts = {}
    for field in fields:
        if isinstance(field, CategoricalField):
            values = F.array(F.col(field.name))
        elif isinstance(field, MultiValuedField):
            values = F.array_distinct(F.slice(F.col(field.name), 1, field.max_length))
        else:
            continue
        pairs.append(_pairs(field.name, values))
        min_counts[field.name] = field.min_count
    if not pairs:
        return rows.sparkSession.createDataFrame(
            [], "field string, value string, id int, count bigint"
        )
    counts = (
        rows.select(F.explode(F.concat(*pairs)).alias("p"))
        .select(F.col("p.f").alias("field"), F.col("p.v").alias("value"))
        .where(F.col("value").isNotNull())
        .groupBy("field", "value")
        .agg(F.count(F.lit(1)).alias("count"))
    )
    enough = F.lit(False)
    for name, min_count in min_counts.items():
        enough = enough | ((F.col("field") == name) & (F.col("count") >= min_count))
    order = Window.partitionBy("field").orderBy(F.desc("count"), "value")
    rank = F.row_number().over(order)
    return counts.where(enough).select(
        "field", "value", (rank - 1 + FIRST_KNOWN).cast("int").alias("id"), "count"
    )


def _pairs(field: str, values: Column) -> Column:
    """An array of (field, value); empty where ``values`` is null, so that concat is not."""
    pairs = F.transform(values, lambda value: F.struct(F.lit(field).alias("f"), value.alias("v")))
    return F.coalesce(pairs, F.array().cast("array<struct<f:string,v:string>>"))


def write_vocabulary(vocabulary: DataFrame, directory: str) -> None:
    """Write it to ``<directory>/vocabulary``, each field's rows together."""
    ordered = vocabulary.repartitionByRange("field", "id").sortWithinPartitions("field", "id")
    ordered.write.parquet(f"{directory}/{VOCABULARY}")


def read_vocabulary(spark: SparkSession, directory: str) -> DataFrame:
    """Read the vocabulary of a features directory or of a bundle.

    Raises:
        DataError: It is missing or unreadable.
    """
    path = f"{directory}/{VOCABULARY}"
    try:
        return spark.read.parquet(path).select("field", "value", "id", "count")
    except (PySparkException, Py4JJavaError):
        raise DataError(
            f"no readable vocabulary at '{path}'; restore it or build the features again"
        ) from None


def vocabulary_sizes(vocabulary: DataFrame) -> dict[str, int]:
    """Known values per field."""
    return {row["field"]: row["count"] for row in vocabulary.groupBy("field").count().collect()}


def fingerprint(vocabulary: DataFrame) -> str:
    """A fingerprint of the content (field, value, id), whatever the files or their order.

    Two independent 64-bit hashes of each row are added up modulo 2**64: order cannot matter.
    """
    content = [F.col("field"), F.col("value"), F.col("id")]
    sums = [
        # decimal(38) holds 10**18 of them: a bigint sum would overflow under ANSI rules.
        F.sum(F.xxhash64(F.lit(seed), *content).cast("decimal(38,0)"))
        for seed in (0, 1)
    ]
    row = vocabulary.agg(*sums).head()
    assert row is not None
    return "".join(f"{int(total or 0) % 2**64:016x}" for total in row)


def check_fingerprint(vocabulary: DataFrame, expected: str, directory: str) -> None:
    """Refuse a vocabulary that is not the one a manifest speaks of.

    Raises:
        DataError: The fingerprints differ.
    """
    found = fingerprint(vocabulary)
    if found != expected:
        raise DataError(
            f"the vocabulary in '{directory}' has fingerprint {found}, its manifest says "
            f"{expected}: the files were changed; restore them or build and train again"
        )
