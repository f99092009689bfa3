"""The raw table, read once and brought to canonical columns.

Canonical columns: one per field under the field's name (string, array<string>, double, or int where
hashed), ``label`` (double, when a label is asked for), ``sample_weight`` (float, when a weight is),
``_keys`` (a struct of the key columns) and, when features are built, ``_split``, ``_day`` (if the
table has days) and ``_order`` (a hash of the keys; in chunks, of the whole row). The underscore
keeps them apart from fields. Where workers read texts (``feature_eng.parquet_texts``), a row's
place stands for them.
"""

from collections.abc import Iterable
from datetime import date, timedelta

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf import storage
from conf.errors import ConfigError, DataError
from conf.fields import LABEL, WEIGHT
from conf.manifest import MISSING, UNKNOWN, FieldSpec
from conf.raw import RawConfig
from conf.schema import LabelConfig
from feature_eng.days import is_in_days, is_pattern, refuse_empty_files
from feature_eng.spark_errors import first_line

KEYS, KEY_HASH, SPLIT, DAY, ORDER = "_keys", "_key_hash", "_split", "_day", "_order"

# Of a text, so that thousands of rows fit into a batch.
LONGEST_BYTES, BEGINNING_CHARACTERS = 512, 100
_GREATEST_FLOAT32 = (2.0 - 2.0**-23) * 2.0**127
_DISCRETE = (T.StringType, T.IntegralType, T.BooleanType, T.DateType)
_EXPECTED = {
    "categorical": "a string, integer, boolean or date",
    "hashed": "a string, integer, boolean or date",
    "multi_valued": "an array of strings, integers, booleans or dates",
    "numeric": "a number",
    "bucketised": "a number",
}


def read_raw(spark: SparkSession, raw: RawConfig) -> DataFrame:
    """Open a raw table.

    Raises:
        ConfigError: It is not there.
        DataError: What is there cannot be read as it should.
    """
    there = storage.exists(raw.path) if raw.path else spark.catalog.tableExists(raw.table or "")
    if not there and not is_pattern(raw.name):  # what that finds is for Spark to say
        raise ConfigError(f"raw table '{raw.name}' does not exist; check its name in the config")
    try:
        if raw.path is None:
            return spark.read.table(raw.table or "")
        reader = spark.read.format(raw.format)
        if raw.format in ("csv", "json"):  # else what does not parse is null
            reader = reader.option("mode", "FAILFAST")
        return reader.options(**raw.options).load(raw.path)
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"raw table '{raw.name}' cannot be read: {first_line(error)}") from None


def rows_of_days(
    raw: DataFrame, config: RawConfig, first: str | None, last: str | None
) -> DataFrame:
    """The rows of some days; those of whole partitions are picked without reading the others.

    Args:
        raw: The table.
        config: Names its date column.
        first: YYYY-MM-DD, or None for all up to the last.
        last: YYYY-MM-DD, or None for all from the first.

    Raises:
        DataError: The table has no date column, or one that no days can be picked by, or one of its
            files was cut off to nothing. Text of another form is an error of the rows' reader.
    """
    after = None if last is None else (date.fromisoformat(last) + timedelta(days=1)).isoformat()
    refuse_empty_files(config, first, after)
    if first is None and after is None:
        return raw
    day = named_column(raw, config.ds_column, "ds_column")
    return raw.where(is_in_days(day, raw.schema[config.ds_column].dataType, config, first, after))


def field_column(raw: DataFrame, field: FieldSpec) -> Column:
    """The raw value of a field in its canonical form.

    A value of a vocabulary is a string, and a long one stands for itself by its beginning and its
    SHA-256; one that is hashed is its id; a list is cut after the first value too many; a number is
    clipped and its log(1 + x) taken if asked for. NaN, infinities and numbers that no float32 holds
    become null.

    Raises:
        DataError: The column is missing or of a type that the field's kind cannot take.
    """
    if field.is_expr:
        value, sql = F.expr(field.source), f"({field.source}\n)"  # a comment may end it
        try:
            found = raw.select(value.alias(field.name)).schema[0].dataType
        except AnalysisException as error:
            raise DataError(
                f"field '{field.name}': '{field.source}' does not fit the raw table: "
                f"{first_line(error)}"
            ) from None
    else:
        value, sql = named_column(raw, field.source, field.name), quoted(field.source)
        found = raw.schema[field.source].dataType
    if not _fits(field.kind, found):
        raise DataError(
            f"field '{field.name}': '{field.source}' is {found.simpleString()}, but kind "
            f"'{field.kind}' expects {_EXPECTED[field.kind]}; change the kind or cast with expr"
        )
    if field.kind == "multi_valued":
        values = f"slice(array_compact(cast({sql} AS array<string>)), 1, {field.length + 1})"
        value = F.expr(f"transform({values}, text -> {_shortened('text')})")
    elif field.kind == "categorical":
        # Of another type none is long.
        value = F.expr(_shortened(sql) if isinstance(found, T.StringType) else f"string({sql})")
    elif field.kind == "hashed":
        value = value.cast("string")
        hashed = hashed_id(value, field.oov_buckets, field.seed)
        value = F.when(value.isNull(), MISSING).otherwise(hashed)
    else:
        value = _transformed(_finite(value.cast("double")), field)
    return value.alias(field.name)


def has_source(raw: DataFrame, field: FieldSpec) -> bool:
    """Whether a table has what a field is made of."""
    if not field.is_expr:
        return field.source in raw.columns
    try:
        raw.select(F.expr(field.source))
    except AnalysisException as error:
        return not (error.getCondition() or "").startswith("UNRESOLVED_COLUMN")
    return True


def absent_column(field: FieldSpec) -> Column:
    """A field of rows of which none has a value, as ``field_column`` would have it."""
    types = {"multi_valued": "array<string>", "categorical": "string"}
    value = F.lit(MISSING).cast("int") if field.kind == "hashed" else F.lit(None)
    return value.cast(types.get(field.kind, "double" if field.kind != "hashed" else "int")).alias(
        field.name
    )


def value_hash(value: Column, seed: int) -> Column:
    """The 64 bits by which a value is found, or null is: those of the seed."""
    return F.xxhash64(F.lit(seed), value)


def hashed_id(value: Column, buckets: int, seed: int) -> Column:
    """The id of a value by its hash: one of so many, from ``UNKNOWN`` on."""
    return (UNKNOWN + F.pmod(value_hash(value, seed), F.lit(buckets))).cast("int")


def _shortened(text: str) -> str:
    """SQL for a text, or if it is long for its beginning and its SHA-256.

    As a column of functions, each part would be a call into the JVM.
    """
    name = f"concat(substr({text}, 1, {BEGINNING_CHARACTERS}), '... SHA-256 ', sha2({text}, 256))"
    return f"if(octet_length({text}) <= {LONGEST_BYTES}, {text}, {name})"


def _transformed(value: Column, field: FieldSpec) -> Column:
    low, high = field.clip or [None, None]
    if low is not None:
        value = F.when(value < low, low).otherwise(value)
    if high is not None:
        value = F.when(value > high, high).otherwise(value)
    return F.log1p(value) if field.log1p else value


def day_column(raw: DataFrame, config: RawConfig) -> Column:
    """The day of a row as a date, or null where it is none.

    Raises:
        DataError: The table has no column of days.
    """
    day = named_column(raw, config.ds_column, "ds_column")
    return day.cast("string").try_cast("date").alias(DAY)


def label_column(raw: DataFrame, label: LabelConfig) -> Column:
    """The label as a double: the column itself, or whether it reaches the threshold.

    Raises:
        DataError: The column is missing or neither a number nor a boolean.
    """
    value = named_column(raw, label.column, LABEL)
    found = raw.schema[label.column].dataType
    if not isinstance(found, T.NumericType | T.BooleanType):
        raise DataError(
            f"label '{label.column}' is {found.simpleString()}, expected a number or a boolean"
        )
    value = _finite(value.cast("double"))
    if label.threshold is not None:
        value = (value >= label.threshold).cast("double")
    return value.alias(LABEL)


def weight_column(raw: DataFrame, column: str) -> Column:
    """The weight of a row as the float that is written; what a float cannot hold becomes null.

    Raises:
        DataError: The column is missing or no number.
    """
    value = named_column(raw, column, "weight")
    found = raw.schema[column].dataType
    if not isinstance(found, T.NumericType):
        raise DataError(f"weight '{column}' is {found.simpleString()}, expected a number")
    return _finite(value.cast("float")).alias(WEIGHT)


def key_columns(raw: DataFrame, keys: Iterable[str]) -> Column:
    """The key columns, and others that the scores keep, as one struct: no name meets a field's.

    Raises:
        DataError: One of them is missing.
    """
    return F.struct(*[named_column(raw, key, "keys").alias(key) for key in keys]).alias(KEYS)


def named_column(raw: DataFrame, name: str, wanted_by: str) -> Column:
    """A top-level column by its exact name, dots and spaces included.

    Raises:
        DataError: The raw table has no such column; names those it has.
    """
    if name not in raw.columns:
        raise DataError(
            f"column '{name}' (wanted by '{wanted_by}') is not in the raw table; "
            f"it has {', '.join(raw.columns)}; one that only some Parquet files have needs "
            f'options: {{mergeSchema: "true"}} beside their path'
        )
    return F.col(quoted(name))


def quoted(name: str) -> str:
    """A column's name as SQL takes it, whatever is in it."""
    return "`" + name.replace("`", "``") + "`"


def _fits(kind: str, found: T.DataType) -> bool:
    if kind in ("categorical", "hashed"):
        return isinstance(found, _DISCRETE)
    if kind == "multi_valued":
        return isinstance(found, T.ArrayType) and isinstance(found.elementType, _DISCRETE)
    return isinstance(found, T.NumericType)


def _finite(value: Column) -> Column:
    # NaN is greater than any number. What no float32 holds would be infinite in the features.
    return F.when(F.abs(value) > _GREATEST_FLOAT32, None).otherwise(value)
