"""Negatives for implicit feedback: the positives' rows again, with items their users never touched.

Rows stay in Spark. Through numpy go, once per user, the numbers of the items touched and the hashes
of the positives' keys; the rows are joined to what was drawn for their hash.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import DataError
from conf.negatives import NegativesConfig
from feature_eng.draws import Integers, draw_items
from feature_eng.raw import named_column, quoted
from feature_eng.split import key_hash
from feature_eng.workers import Batches, in_worker

DRAWN = "_drawn"

# What differs between training rows and others: the weights of items, and a user's positives.
_WEIGHTS, _ROWS = ("_train_weight", "_weight"), ("_train_rows", "_rows")
_OF_ROW = ["_user", "_train", "_row"]


def with_negatives(
    raw: DataFrame,
    negatives: NegativesConfig,
    *,
    keys: Iterable[Column],
    positive: Column,
    train: Column,
    apart: bool,
) -> DataFrame:
    """The raw rows, and for each positive ``per_positive`` rows of items its user never touched.

    What is drawn for a positive is a function of the seed, its keys, its user's items and all
    items; positives of a user that share their keys get the same. Counts all items and users
    before it returns, and keeps both cached until the session ends.

    Args:
        raw: The raw table.
        negatives: What to draw.
        keys: The key columns of a row.
        positive: Whether a row has label 1.
        train: Whether a row is for training; popularity is that of these rows.
        apart: Whether training rows are to know nothing of the others: they get items that training
            rows hold, and the columns of an item are those of its training rows, if it has any.

    Returns:
        The columns of ``raw``, and ``_drawn``: whether the row was drawn.

    Raises:
        DataError: A column is missing, a positive has no user or no item, or a user has not enough
            items left.
    """
    touches = _touches(raw, negatives, keys, positive, train)
    items = _items(touches, negatives.strategy == "popularity", apart).persist()
    users = _users(touches, items).persist()
    numbered = items.select("_index", *_WEIGHTS).toArrow().sort_by("_index")
    weights = [numbered[name].to_numpy() for name in _WEIGHTS]
    _check(users, [np.count_nonzero(of) for of in weights], negatives)
    schema = T.StructType(
        [
            users.schema["_user"],
            T.StructField("_train", T.BooleanType()),
            T.StructField("_row", T.LongType()),
            T.StructField("_index", T.ArrayType(T.IntegerType())),
        ]
    )
    ends = [np.cumsum(of, dtype=np.int64) for of in weights]
    sent = raw.sparkSession.sparkContext.broadcast(ends)
    drawn = (
        users.select("_user", "_seen", *_ROWS)
        .mapInArrow(in_worker(partial(_draw_batches, sent, negatives.per_positive)), schema)
        .join(touches.select(*_OF_ROW, "_raw"), _OF_ROW, "inner")
        .select("_raw", F.explode("_index").alias("_index"))
        .join(items.select("_index", "_own"), "_index", "inner")
    )
    own = (negatives.item, *negatives.item_columns)
    columns = [F.col("_own" if name in own else "_raw")[name].alias(name) for name in raw.columns]
    return raw.withColumn(DRAWN, F.lit(False)).union(drawn.select(*columns, F.lit(True)))


def _touches(
    raw: DataFrame,
    negatives: NegativesConfig,
    keys: Iterable[Column],
    positive: Column,
    train: Column,
) -> DataFrame:
    """Each row's user (null where a part is), item, its columns, and for a positive its hash."""
    users = [named_column(raw, name, "negatives.user") for name in negatives.user]
    item = named_column(raw, negatives.item, "negatives.item")
    columns = [named_column(raw, name, "negatives.item_columns") for name in negatives.item_columns]
    unknown = F.lit(False)
    for column in users:
        unknown |= column.isNull()
    return raw.select(
        F.when(~unknown, F.struct(*users)).alias("_user"),
        item.alias("_item"),
        F.struct(item, *columns).alias("_own"),
        F.when(positive, key_hash(keys, negatives.seed)).alias("_row"),
        F.coalesce(train, F.lit(False)).alias("_train"),
        F.struct(*[F.col(quoted(name)) for name in raw.columns]).alias("_raw"),
    )


def _items(touches: DataFrame, popularity: bool, apart: bool) -> DataFrame:
    """The items to draw from: ``_item, _own``, ``_index``, from 0 by their value, and ``_WEIGHTS``.

    Where the columns of an item differ from row to row, those with the smallest hash are taken.
    """
    train = F.col("_train")
    weight = F.count_if(train & F.col("_row").isNotNull()) if popularity else F.lit(1)
    is_open = F.bool_or(train) if apart else F.lit(True)
    own = F.struct(F.lit(apart) & ~train, F.xxhash64("_own"), F.col("_own"))
    return (
        touches.where(F.col("_item").isNotNull())
        .groupBy("_item")
        .agg(
            F.when(is_open, weight).otherwise(0).alias("_train_weight"),
            weight.alias("_weight"),
            F.min(own)["_own"].alias("_own"),
        )
        .where(F.col("_weight") > 0)
        .withColumn("_index", F.row_number().over(Window.orderBy("_item")) - 1)
    )


def _users(touches: DataFrame, items: DataFrame) -> DataFrame:
    """Per user with positives: ``_seen``, items ascending, ``_ROWS``, hashes, and nulls counted."""
    is_positive = F.col("_row").isNotNull()
    in_train = F.collect_set(F.when(F.col("_train_weight") > 0, F.col("_index")))
    return (
        touches.join(items.select("_item", "_index", "_train_weight"), "_item", "left")
        .groupBy("_user")
        .agg(
            F.array_sort(F.collect_set("_index")).alias("_seen"),
            F.size(in_train).alias("_seen_in_train"),
            F.collect_set(F.when(F.col("_train"), F.col("_row"))).alias("_train_rows"),
            F.collect_set(F.when(~F.col("_train"), F.col("_row"))).alias("_rows"),
            F.count_if(is_positive & F.col("_user").isNull()).alias("_no_user"),
            F.count_if(is_positive & F.col("_item").isNull()).alias("_no_item"),
        )
        .where((F.size("_train_rows") > 0) | (F.size("_rows") > 0))
    )


def _check(users: DataFrame, num_items: Sequence[int], negatives: NegativesConfig) -> None:
    per_positive = negatives.per_positive
    of_train, of_others = (F.lit(number - per_positive) for number in num_items)
    is_short = F.col("_user").isNotNull() & (
        ((F.size("_train_rows") > 0) & (F.col("_seen_in_train") > of_train))
        | ((F.size("_rows") > 0) & (F.size("_seen") > of_others))
    )
    found = users.agg(
        F.sum("_no_user"),
        F.sum("_no_item"),
        F.count_if(is_short),
        F.min(F.when(is_short, F.col("_user"))),
    ).head()
    assert found is not None
    no_user, no_item, num_short, first = found
    for count, names in ((no_user, negatives.user), (no_item, [negatives.item])):
        if count:
            raise DataError(
                f"negatives: {' or '.join(names)} is null in {count} rows with label 1; drop those "
                f"rows or fill them"
            )
    if num_short:
        name = ", ".join(f"{key}={value!r}" for key, value in first.asDict().items())
        whose, advice = "all items", "leave those users out"
        if negatives.strategy == "popularity":
            whose, advice = "the items that are positive in training rows", "take strategy: uniform"
        elif num_items[0] < num_items[1]:
            whose = f"the items of training rows, or of {num_items[1]} in other splits"
        raise DataError(
            f"negatives: {num_short} users, such as {name}, have fewer than {per_positive} items "
            f"that they never touched left of {num_items[0]}, {whose}; lower "
            f"negatives.per_positive or {advice}"
        )


def _draw_batches(ends: Broadcast[list[Integers]], per_positive: int, batches: Batches) -> Batches:
    for batch in batches:
        user, seen, *rows_of = batch.columns
        for of_pool, rows, trains in zip(ends.value, rows_of, (True, False), strict=True):
            num_rows = rows.value_lengths().to_numpy()
            hashes = rows.flatten()
            drawn = draw_items(
                of_pool,
                seen.flatten().to_numpy(),
                seen.value_lengths().to_numpy(),
                hashes.to_numpy(),
                num_rows,
                per_positive,
            )
            offsets = np.arange(0, drawn.size + 1, per_positive, dtype=np.int32)
            lists = pa.ListArray.from_arrays(offsets, drawn.ravel().astype(np.int32))
            owner = np.repeat(np.arange(len(batch)), num_rows)
            yield pa.RecordBatch.from_arrays(
                [user.take(pa.array(owner)), pa.repeat(trains, len(hashes)), hashes, lists],
                [*_OF_ROW, "_index"],
            )
