"""The raw table, read once and brought to canonical columns.

Canonical columns: one per field under the field's name (string, array<string> or double),
``label`` (double, when a label is asked for), ``_keys`` (a struct of the key columns) and
``_split`` (when a split is asked for). The underscore keeps them apart from fields.
"""

from collections.abc import Iterable

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf import storage
from conf.errors import ConfigError, DataError
from conf.manifest import FieldSpec
from conf.schema import LABEL, LabelConfig

KEYS, SPLIT = "_keys", "_split"

_DISCRETE = (T.StringType, T.IntegralType, T.BooleanType, T.DateType)
_EXPECTED = {
    "categorical": "a string, integer, boolean or date",
    "multi_valued": "an array of strings, integers, booleans or dates",
    "numeric": "a number",
    "bucketised": "a number",
}


def read_raw(spark: SparkSession, path: str) -> DataFrame:
    """Open the raw Parquet table.

    Raises:
        ConfigError: There is nothing at ``path``.
        DataError: What is there is no readable Parquet table.
    """
    if not storage.exists(path):
        raise ConfigError(f"raw table '{path}' does not exist; check the path in the config")
    try:
        return spark.read.parquet(path)
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"raw table '{path}' cannot be read: {_first_line(error)}") from None


def field_column(raw: DataFrame, field: FieldSpec) -> Column:
    """The raw value of a field in its canonical type; NaN and infinities become null.

    Raises:
        DataError: The column is missing or of a type that the field's kind cannot take.
    """
    value = F.expr(field.source) if field.is_expr else named_column(raw, field.source, field.name)
    try:
        found = raw.select(value.alias(field.name)).schema[0].dataType
    except AnalysisException as error:
        raise DataError(
            f"field '{field.name}': '{field.source}' does not fit the raw table: "
            f"{_first_line(error)}"
        ) from None
    if not _fits(field.kind, found):
        raise DataError(
            f"field '{field.name}': '{field.source}' is {found.simpleString()}, but kind "
            f"'{field.kind}' expects {_EXPECTED[field.kind]}; change the kind or cast with expr"
        )
    if field.kind == "multi_valued":
        value = F.array_compact(value.cast("array<string>"))
    elif field.kind == "categorical":
        value = value.cast("string")
    else:
        value = _finite(value.cast("double"))
    return value.alias(field.name)


def label_column(raw: DataFrame, label: LabelConfig) -> Column:
    """The label as a double: the column itself, or whether it reaches the threshold.

    Raises:
        DataError: The column is missing or neither a number nor a boolean.
    """
    value = named_column(raw, label.column, LABEL)
    found = raw.select(value).schema[0].dataType
    if not isinstance(found, T.NumericType | T.BooleanType):
        raise DataError(
            f"label '{label.column}' is {found.simpleString()}, expected a number or a boolean"
        )
    value = _finite(value.cast("double"))
    if label.threshold is not None:
        value = (value >= label.threshold).cast("double")
    return value.alias(LABEL)


def key_columns(raw: DataFrame, keys: Iterable[str]) -> Column:
    """The key columns as one struct, so that no name meets a field's.

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
            f"it has {', '.join(raw.columns)}"
        )
    return F.col("`" + name.replace("`", "``") + "`")


def _fits(kind: str, found: T.DataType) -> bool:
    if kind == "categorical":
        return isinstance(found, _DISCRETE)
    if kind == "multi_valued":
        return isinstance(found, T.ArrayType) and isinstance(found.elementType, _DISCRETE)
    return isinstance(found, T.NumericType)


def _finite(value: Column) -> Column:
    return F.when(F.isnan(value) | (F.abs(value) == float("inf")), None).otherwise(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
