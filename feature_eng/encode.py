"""Values to local ids: the same code for building features and for scoring."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.fields import NumericField
from conf.manifest import MISSING, PADDING, UNKNOWN, FieldSpec

# Above this a lookup table is not copied to every executor; Spark then joins by shuffling.
BROADCAST_VALUES = 500_000


def encode_fields(rows: DataFrame, fields: Sequence[FieldSpec], vocabulary: DataFrame) -> DataFrame:
    """Replace every field's canonical value by its encoding; other columns stay.

    Args:
        rows: Canonical rows (see ``feature_eng.raw``).
        fields: How each field was fitted.
        vocabulary: ``field, value, id, ...``.

    Returns:
        Per field: int (categorical, hashed, bucketised), array<int> of ``length`` elements
        (multi-valued, padded with -1) or float (numeric). No nulls.
    """
    canonical = rows
    columns: dict[str, Column] = {}
    for field in fields:
        if field.kind == "numeric":
            columns[field.name] = scaled(F.col(field.name), field)
        elif field.kind == "bucketised":
            columns[field.name] = bucketise(F.col(field.name), field)
        elif field.kind == "hashed":
            columns[field.name] = or_missing(
                F.col(field.name), unknown_id(F.col(field.name), field)
            )
        else:
            lookup = _lookup(vocabulary, field)
            if field.kind == "categorical":
                rows = _encode_values(rows, field, lookup)
            else:
                rows = _encode_lists(rows, canonical, field, lookup)
    return rows.withColumns(columns) if columns else rows


def transformed(value: Column, field: FieldSpec | NumericField) -> Column:
    """A number as it is before it is scaled: clipped, and its log(1 + x) if asked for."""
    low, high = field.clip or [None, None]
    if low is not None:
        value = F.when(value < low, low).otherwise(value)
    if high is not None:
        value = F.when(value > high, high).otherwise(value)
    return F.log1p(value) if field.log1p else value


def scaled(value: Column, field: FieldSpec) -> Column:
    """(x - shift) / scale as a float; a missing value is x = 0."""
    x = (transformed(value, field) - field.shift) / field.scale
    return F.coalesce(x, F.lit(0.0)).cast("float")


def bucketise(value: Column, field: FieldSpec) -> Column:
    """The first known id + the number of edges that the value reaches; 0 where it is missing."""
    reached = F.lit(field.first_known)
    for edge in field.edges:
        reached = reached + (value >= edge).cast("int")
    return or_missing(value, reached)


def unknown_id(value: Column, field: FieldSpec) -> Column:
    """The id of a value that is not known, by a hash if there are several."""
    if field.oov_buckets == 1:
        return F.lit(UNKNOWN)
    return UNKNOWN + F.pmod(F.xxhash64(F.lit(field.seed), value), F.lit(field.oov_buckets))


def or_missing(value: Column, local_id: Column) -> Column:
    """The id of a value, as an int."""
    return F.when(value.isNull(), MISSING).otherwise(local_id).cast("int")


def _lookup(vocabulary: DataFrame, field: FieldSpec) -> DataFrame:
    lookup = vocabulary.where(F.col("field") == field.name).select(
        F.col("value").alias("_value"), F.col("id").alias("_id")
    )
    return F.broadcast(lookup) if field.cardinality <= BROADCAST_VALUES else lookup


def _encode_values(rows: DataFrame, field: FieldSpec, lookup: DataFrame) -> DataFrame:
    value = F.col(field.name)
    joined = rows.join(lookup, value == F.col("_value"), how="left")
    local_id = F.coalesce("_id", unknown_id(value, field))
    return joined.withColumn(field.name, or_missing(value, local_id)).drop("_value", "_id")


def _encode_lists(
    rows: DataFrame, canonical: DataFrame, field: FieldSpec, lookup: DataFrame
) -> DataFrame:
    """Encode each distinct list once, then join the ids back by the list itself."""
    lists = canonical.select(F.col(field.name).alias("_list")).where(F.size("_list") > 0)
    local_id = F.coalesce("_id", unknown_id(F.col("_item"), field)).cast("int")
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
