"""Which rows train, validate and test."""

from collections.abc import Iterable

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import DataError
from conf.schema import SPLITS, ColumnSplit, RandomSplit, SplitConfig
from feature_eng.raw import SPLIT, named_column

TRAIN = SPLITS.index("train")
_BUCKETS = 1_000_000


def key_hash(keys: Iterable[Column], seed: int) -> Column:
    """A 64-bit hash of a row's keys: what is dealt by it does not depend on order or layout."""
    # Column by column: Spark would make an object of each row's struct, and hash it alike.
    return F.xxhash64(F.lit(seed), *keys)


def hashed_keys(raw: DataFrame, names: Iterable[str], wanted_by: str) -> list[Column]:
    """Key columns as they are hashed: an integer is the same number however wide its column is.

    Raises:
        DataError: One of them is missing.
    """
    keys = []
    for name in names:
        key = named_column(raw, name, wanted_by)
        is_integer = isinstance(raw.schema[name].dataType, T.IntegralType)
        keys.append(key.cast("bigint") if is_integer else key)
    return keys


def split_column(raw: DataFrame, keys: Iterable[Column], split: SplitConfig) -> Column:
    """The split of each row by its place in ``SPLITS``, or -1 where its column says none: int.

    Args:
        raw: The raw table.
        keys: The key columns of a row, as ``hashed_keys`` has them.
        split: How rows are split.

    Raises:
        DataError: A column is missing, or a cut cannot be read as the type of the time.
    """
    if isinstance(split, ColumnSplit):
        said = named_column(raw, split.column, "split").cast("string")
        is_train, is_valid, is_test = (said == name for name in SPLITS)
    elif isinstance(split, RandomSplit):
        if split.by is not None:
            keys = hashed_keys(raw, split.by, "split.by")
        position = F.pmod(key_hash(keys, split.seed), F.lit(_BUCKETS)) / _BUCKETS
        is_test, is_valid = position < split.test, position < split.test + split.valid
        is_train = F.lit(True)
    else:
        time = named_column(raw, split.column, "split")
        kind = raw.schema[split.column].dataType
        if isinstance(kind, T.DoubleType | T.FloatType):
            time = F.nanvl(time, F.lit(None))  # NaN is greater than any cut
        valid_from, test_from = _cut(raw, split.valid_from, kind), _cut(raw, split.test_from, kind)
        is_test, is_valid, is_train = time >= test_from, time >= valid_from, time < valid_from
    dealt = F.when(is_test, SPLITS.index("test")).when(is_valid, SPLITS.index("valid"))
    return dealt.when(is_train, TRAIN).otherwise(-1).alias(SPLIT)


def _cut(raw: DataFrame, value: str | int | float, kind: T.DataType) -> Column:
    cut = F.lit(value).try_cast(kind)
    try:
        unreadable = raw.sparkSession.range(1).select(cut.isNull()).head()[0]  # type: ignore[index]
    except AnalysisException:  # no number is a date
        unreadable = True
    if isinstance(kind, T.IntegralType) and isinstance(value, float):
        unreadable |= not value.is_integer()  # would be truncated
    if unreadable:
        raise DataError(
            f"split: {value!r} cannot be read as {kind.simpleString()}, the type of the time column"
        )
    return cut
