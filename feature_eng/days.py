"""The days of a raw table: which rows, and which files, are theirs.

Days are those from ``first`` (None: from the first on) up to the one before ``after`` (None: all),
as YYYY-MM-DD.
"""

import re
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf import storage
from conf.errors import DataError
from conf.raw import RawConfig

_DAYS = (T.DateType, T.TimestampType, T.TimestampNTZType, T.StringType)
_ADVICE = "make a date of it in a view, and name that as table:"


def is_in_days(
    day: Column, kind: T.DataType, config: RawConfig, first: str | None, after: str | None
) -> Column:
    """Whether a row is of the days, by comparisons of the bare column: they pick partitions.

    Raises:
        DataError: The column is of a type that days cannot be picked by. Text that begins with no
            day is an error of Spark's, once the row is read: it is not in the order of its days.
    """
    name = config.ds_column
    if not isinstance(kind, _DAYS):
        raise DataError(
            f"ds_column '{name}' is {kind.simpleString()}, expected a date, a timestamp or text "
            f"YYYY-MM-DD; {_ADVICE}"
        )
    wanted = day.isNotNull()
    if first is not None:
        wanted &= day >= F.lit(first).cast(kind)
    if after is not None:  # a day may have hours
        wanted &= day < F.lit(after).cast(kind)
    if isinstance(kind, T.StringType):
        found = F.concat(
            F.lit(f"ds_column '{name}' of '{config.name}' holds '"),
            day,
            F.lit(f"', expected YYYY-MM-DD; {_ADVICE}"),
        )
        is_day = day.rlike(r"^\d{4}-\d\d-\d\d(\D|$)")
        wanted &= F.when(is_day, True).otherwise(F.raise_error(found))
    return wanted


def is_pattern(path: str) -> bool:
    """Whether a path stands for all that it matches."""
    return any(sign in path for sign in "*?[{")


def refuse_empty_files(config: RawConfig, first: str | None, after: str | None) -> None:
    """Spark passes over files without a byte, but no Parquet file of the days is that short.

    Raises:
        DataError: There is one.
    """
    if config.path is None or config.format != "parquet":
        return
    fs, plain = storage.filesystem(config.path)
    for directory in fs.glob(plain) if is_pattern(plain) else [plain]:
        _refuse_empty_files(fs, directory, config, first, after)


def _refuse_empty_files(
    fs: Any, plain: str, config: RawConfig, first: str | None, after: str | None
) -> None:
    def is_wanted(path: str) -> bool:
        below = path.removeprefix(plain)
        day = re.search(f"/{re.escape(config.ds_column)}=([^/]*)", below)
        in_days = day is None or ((first or day[1]) <= day[1] and (not after or day[1] < after))
        # Hadoop marks directories of object stores by files of no bytes.
        return in_days and not re.search(r"/[._]|_\$folder\$$", below)

    # What lies below the days asked for, where there are others.
    few = first is not None or after is not None
    for top in fs.ls(plain, detail=True) if few else [fs.info(plain)]:
        if not is_wanted(top["name"]):
            continue
        is_directory = top["type"] == "directory"
        files = fs.find(top["name"], detail=True) if is_directory else {top["name"]: top}
        for path, info in files.items():
            if info["size"] == 0 and is_wanted(path):
                raise DataError(
                    f"raw table '{config.name}': '{path}' has 0 bytes, which is no Parquet file; "
                    f"write it again, or remove it"
                )
