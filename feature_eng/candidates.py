"""Candidates: every user of a day with every item that he has not seen, in blocks.

A user is encoded once, an item once for each batch of users; their pairs exist only as the block of
encoded rows that is being scored. Shapes: U = users of a batch, I = items, n = pairs of a block.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import ConfigError, DataError
from conf.manifest import FieldSpec
from conf.scoring import CandidatesConfig, ScoreConfig
from feature_eng.raw import KEYS, named_column, quoted, read_raw, rows_of_days
from feature_eng.scored_files import Block
from feature_eng.scoring import (
    Encoder,
    canonical_score_rows,
    kept_columns,
    kept_values,
    spread,
)
from feature_eng.shipped import Shipped
from feature_eng.sides import Sides

Indices = npt.NDArray[np.int64]

_SEEN, _NUMBER = "_seen", "_number"
_BLOCK_ROWS = 16_384
_MIXER = np.int64(-0x61C8864680B583EB)  # 2^64 over the golden ratio (Knuth, TAOCP 3, sec. 6.4)
ITEMS = "items.arrow"


class Candidates(NamedTuple):
    """Users and items to pair.

    Attributes:
        users: Canonical rows of the users, with the numbers of the items that each has seen.
        items: Canonical rows of the items.
        user_fields: Fields of the users.
        item_fields: Those of the items.
        kept: Columns of the scores that users and items have.
        pairs: How many there are.
        source: What the record calls them: both tables, with the users and items of each.
    """

    users: DataFrame
    items: pa.Table
    user_fields: list[FieldSpec]
    item_fields: list[FieldSpec]
    kept: T.StructType
    pairs: int
    source: str


def find_candidates(
    raw: DataFrame, config: ScoreConfig, fields: Sequence[FieldSpec], keys: Sequence[str], ds: str
) -> Candidates:
    """Bring users, items and what was seen together, without pairing them.

    Args:
        raw: The users of the day.
        config: Names the other tables.
        fields: How each field was fitted.
        keys: Of the scores: columns of users or items.
        ds: The day; what is seen later is not seen yet.

    Raises:
        ConfigError: The configuration says nothing of candidates, or a table is not there, or a
            column or field is not of one side alone (see ``feature_eng.sides``).
        DataError: There are no items, or a column is missing or of the wrong type.
    """
    wanted = config.candidates
    if wanted is None:
        raise ConfigError("--candidates cross needs score.candidates, which names the items")
    users, items = raw, read_raw(raw.sparkSession, wanted.items)
    for table, names, by in ((users, wanted.user, "user"), (items, wanted.item, "item")):
        for name in names:
            named_column(table, name, f"candidates.{by}")
    sides = Sides.of(users, items, wanted, config.raw.ds_column)
    user_fields, item_fields = sides.fields(fields)
    kept = [*keys, *config.columns]
    of_users, of_items = sides.columns(kept)
    if config.by is not None and config.by not in of_users:
        raise ConfigError(
            f"score.by: '{config.by}' is no column of the users, which it must be: name one of "
            f"{', '.join(name for name in keys if name in of_users)}"
        )
    user_rows, item_rows = (
        _each_once(
            canonical_score_rows(
                table, of_fields, [k for k in keys if k in mine], [*mine, *names], config.optional
            ),
            names,
        )
        for table, of_fields, mine, names in (
            (sides.users, user_fields, of_users, wanted.user),
            (sides.items, item_fields, of_items, wanted.item),
        )
    )
    types = {field.name: field for rows in (item_rows, user_rows) for field in kept_columns(rows)}
    # In order, so that the same items are the same file.
    found = item_rows.sort(*_named(wanted.item)).toArrow().combine_chunks()
    if len(found) == 0:
        raise DataError(f"'{wanted.items.name}' has no rows: there is nothing to pair users with")
    user_rows = _with_seen(user_rows, wanted, found, ds)
    counted = user_rows.agg(
        F.count(F.lit(1)).alias("users"), F.sum(F.size(_SEEN).cast("bigint")).alias("seen")
    ).head()
    assert counted
    pairs = counted["users"] * len(found) - (counted["seen"] or 0)
    kept_types = T.StructType([types[name] for name in kept])
    sides_read = (config.raw.name, counted["users"]), (wanted.items.name, len(found))
    source = " x ".join(f"{name} ({rows:,})" for name, rows in sides_read)
    user_rows = spread(user_rows, F.struct(*_named(wanted.user)))
    return Candidates(user_rows, found, user_fields, item_fields, kept_types, pairs, source)


def _each_once(rows: DataFrame, names: Sequence[str]) -> DataFrame:
    """One canonical row of each, always the same one: that with the least hash."""
    fields = [F.col(quoted(name)) for name in rows.columns if name != KEYS]
    values = [*fields, *_named([field.name for field in kept_columns(rows)])]
    # A hash passes over null, and takes no map.
    parts = [part for value in values for part in (value.isNull(), value.cast("string"))]
    one = F.min_by(F.struct("*"), F.xxhash64(*parts)).alias("one")
    return rows.groupBy(*_named(names)).agg(one).select("one.*")


def _named(names: Sequence[str]) -> list[Column]:
    """Kept columns of canonical rows."""
    return [F.col(KEYS)[name] for name in names]


def _with_seen(users: DataFrame, wanted: CandidatesConfig, items: pa.Table, ds: str) -> DataFrame:
    """The users with the numbers of the items that each has seen: ``_seen array<int>``."""
    nothing = F.array().cast("array<int>")
    if wanted.seen is None:
        return users.withColumn(_SEEN, nothing)
    spark = users.sparkSession
    columns = [*wanted.user, *wanted.item]
    table = read_raw(spark, wanted.seen)
    if wanted.seen.ds_column in table.columns:
        table = rows_of_days(table, wanted.seen, None, ds)
    seen = table.select(*[named_column(table, name, "candidates.seen") for name in columns])
    numbers = _numbered(spark, items, wanted.item)
    of_user = (
        seen.join(F.broadcast(numbers), wanted.item, how="inner")
        .groupBy(*map(quoted, wanted.user))
        .agg(F.collect_set(_NUMBER).alias(_SEEN))
    )
    same = functools.reduce(
        lambda one, other: one & other,
        (F.col(KEYS)[name].eqNullSafe(of_user[quoted(name)]) for name in wanted.user),
    )
    return users.join(of_user, same, how="left").select(
        *(users[name] for name in users.columns), F.coalesce(_SEEN, nothing).alias(_SEEN)
    )


def _numbered(spark: SparkSession, items: pa.Table, names: Sequence[str]) -> DataFrame:
    kept = kept_values(items)
    numbers = {_NUMBER: pa.array(np.arange(len(items), dtype=np.int32))}
    return spark.createDataFrame(pa.table({name: kept[name] for name in names} | numbers))


@dataclass(frozen=True)
class PairEncoder:
    """Pairs users with the items that they have not seen, encoded; in Spark's Python workers.

    Attributes:
        user_encoder: Encodes the users' fields.
        item_encoder: Encodes those of the items.
        items: Directory with the items, as ``save_items`` wrote them.
    """

    user_encoder: Encoder
    item_encoder: Encoder
    items: Shipped

    def __call__(self, users: pa.Table) -> Iterator[Block]:
        """Blocks of pairs."""
        (of_users,) = self.user_encoder(users)
        with pa.memory_map(f"{self.items.path()}/{ITEMS}") as file:
            (of_items,) = self.item_encoder(pa.ipc.open_file(file).read_all())
        lists = users[_SEEN].combine_chunks()
        num_items = len(next(iter(of_items.kept.values())))
        together = max(1, _BLOCK_ROWS // num_items)
        for first in range(0, len(users), together):
            mine = lists[first : first + together]
            unseen_UI = np.ones((len(mine), num_items), dtype=bool)
            seen_by = np.repeat(np.arange(len(mine)), pc.list_value_length(mine).to_numpy())
            unseen_UI[seen_by, pc.list_flatten(mine).to_numpy()] = False
            user_n, item_n = np.nonzero(unseen_UI)
            for start in range(0, len(user_n), _BLOCK_ROWS):
                here = slice(start, start + _BLOCK_ROWS)
                yield _pairs(of_users, first + user_n[here], of_items, item_n[here])


def save_items(items: pa.Table, directory: str) -> None:
    """Write the items for ``PairEncoder``."""
    path = f"{directory}/{ITEMS}"
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, items.schema) as writer:
        writer.write_table(items)


def _pairs(users: Block, user_n: Indices, items: Block, item_n: Indices) -> Block:
    sides = ((users, user_n), (items, item_n))
    columns = {name: values[at] for side, at in sides for name, values in side.columns.items()}
    kept = {
        name: values.take(pa.array(at)) for side, at in sides for name, values in side.kept.items()
    }
    nulls = {name: null[at] for side, at in sides for name, null in side.nulls.items()}
    key_hashes = users.key_hashes[user_n] * _MIXER + items.key_hashes[item_n]  # modulo 2^64
    return Block(columns, kept, key_hashes, nulls)
