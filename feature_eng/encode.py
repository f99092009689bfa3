"""Values to local ids: the same code for building features and for scoring."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.manifest import FIRST_KNOWN, MISSING, PADDING, UNKNOWN, FieldSpec

# Above this a lookup table is not copied to every executor; Spark then joins by shuffling.
BROADCAST_VALUES = 500_000


def encode_fields(rows: DataFrame, fields: Sequence[FieldSpec], vocabulary: DataFrame) -> DataFrame:
    """Replace every field's canonical value by its encoding; other columns stay.

    Args:
        rows: Canonical rows (see ``feature_eng.raw``).
        fields: How each field was fitted.
        vocabulary: ``field, value, id, ...``.

    Returns:
        Per field: int (categorical, bucketised), array<int> of ``length`` elements
        (multi-valued, padded with -1) or float (numeric). No nulls.
    """
    canonical = rows
    columns: dict[str, Column] = {}
    for field in fields:
        if field.kind == "numeric":
            columns[field.name] = standardise(F.col(field.name), field)
        elif field.kind == "bucketised":
            columns[field.name] = bucketise(F.col(field.name), field.edges)
        else:
            lookup = _lookup(vocabulary, field)
            if field.kind == "categorical":
                rows = _encode_values(rows, field.name, lookup)
            else:
                rows = _encode_lists(rows, canonical, field, lookup)
    return rows.withColumns(columns) if columns else rows


def standardise(value: Column, field: FieldSpec) -> Column:
    """(x - mean) / std as a float; a missing value sits at the mean, so that x = 0."""
    return F.coalesce((value - field.mean) / field.std, F.lit(0.0)).cast("float")


def bucketise(value: Column, edges: Sequence[float]) -> Column:
    """2 + the number of edges that the value reaches; 0 where it is missing."""
    reached = F.lit(FIRST_KNOWN)
    for edge in edges:
        reached = reached + (value >= edge).cast("int")
    return F.coalesce(reached, F.lit(MISSING)).cast("int")


def _lookup(vocabulary: DataFrame, field: FieldSpec) -> DataFrame:
    lookup = vocabulary.where(F.col("field") == field.name).select(
        F.col("value").alias("_value"), F.col("id").alias("_id")
    )
    return F.broadcast(lookup) if field.cardinality <= BROADCAST_VALUES else lookup


def _encode_values(rows: DataFrame, name: str, lookup: DataFrame) -> DataFrame:
    joined = rows.join(lookup, F.col(name) == F.col("_value"), how="left")
    local_id = F.when(F.col(name).isNull(), MISSING).otherwise(F.coalesce("_id", F.lit(UNKNOWN)))
    return joined.withColumn(name, local_id.cast("int")).drop("_value", "_id")


def _encode_lists(
    rows: DataFrame, canonical: DataFrame, field: FieldSpec, lookup: DataFrame
) -> DataFrame:
    """Encode each distinct list once, then join the ids back by the list itself."""
    lists = canonical.select(F.col(field.name).alias("_list")).where(F.size("_list") > 0)
    local_id = F.coalesce("_id", F.lit(UNKNOWN))
    encoded = (
        lists.distinct()
        .select("_list", F.posexplode(F.slice("_list", 1, field.length)).alias("_pos", "_item"))
        .join(lookup, F.col("_item") == F.col("_value"), how="left")
        .groupBy("_list")
        .agg(F.sort_array(F.collect_list(F.struct("_pos", local_id.alias("id")))).alias("_pairs"))
        .select("_list", F.col("_pairs.id").alias("_ids"))
    )
    joined = rows.join(encoded, F.col(field.name) == F.col("_list"), how="left")
    ids = F.coalesce("_ids", F.array(F.lit(MISSING)))
    padding = F.array_repeat(F.lit(PADDING), field.length)
    padded = F.slice(F.concat(ids, padding), 1, field.length).cast("array<int>")
    return joined.withColumn(field.name, padded).drop("_list", "_ids")
