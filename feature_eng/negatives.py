"""Negatives for implicit feedback: the positives' rows again, with items their users never touched.

Rows stay in Spark. Through numpy go, once per user, the numbers of the items touched and the hashes
of the positives' keys; the rows are joined to what was drawn for their hash.
"""

from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import DataError
from conf.negatives import NegativesConfig
from feature_eng.raw import named_column, quoted
from feature_eng.split import key_hash
from feature_eng.workers import Batches, in_worker

DRAWN = "_drawn"

Integers = NDArray[np.int64]


def with_negatives(
    raw: DataFrame, negatives: NegativesConfig, *, keys: Column, positive: Column, train: Column
) -> DataFrame:
    """The raw rows, and for each positive ``per_positive`` rows of items its user never touched.

    What is drawn for a positive is a function of the seed, its keys, its user's items and all
    items; positives of a user that share their keys get the same. Counts all items and users
    before it returns, and keeps both cached until the session ends.

    Args:
        raw: The raw table.
        negatives: What to draw.
        keys: The key columns of a row, as a struct.
        positive: Whether a row has label 1.
        train: Whether a row is for training; popularity is that of these rows.

    Returns:
        The columns of ``raw``, and ``_drawn``: whether the row was drawn.

    Raises:
        DataError: A column is missing, a positive has no user or no item, or a user has not enough
            items left.
    """
    touches = _touches(raw, negatives, keys, positive, train)
    items = _items(touches, popularity=negatives.strategy == "popularity").persist()
    users = _users(touches, items).persist()
    numbered = items.select("_index", "_weight").toArrow()
    weights = numbered.sort_by("_index")["_weight"].to_numpy()
    _check(users, len(weights), negatives)
    schema = T.StructType(
        [
            users.schema["_user"],
            T.StructField("_row", T.LongType()),
            T.StructField("_index", T.ArrayType(T.IntegerType())),
        ]
    )
    ends = raw.sparkSession.sparkContext.broadcast(np.cumsum(weights, dtype=np.int64))
    drawn = (
        users.select("_user", "_seen", "_rows")
        .mapInArrow(in_worker(partial(_draw_batches, ends, negatives.per_positive)), schema)
        .join(touches.select("_user", "_row", "_raw"), ["_user", "_row"], "inner")
        .select("_raw", F.explode("_index").alias("_index"))
        .join(items.select("_index", "_own"), "_index", "inner")
    )
    own = (negatives.item, *negatives.item_columns)
    columns = [F.col("_own" if name in own else "_raw")[name].alias(name) for name in raw.columns]
    return raw.withColumn(DRAWN, F.lit(False)).union(drawn.select(*columns, F.lit(True)))


def _touches(
    raw: DataFrame, negatives: NegativesConfig, keys: Column, positive: Column, train: Column
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
        train.alias("_train"),
        F.struct(*[F.col(quoted(name)) for name in raw.columns]).alias("_raw"),
    )


def _items(touches: DataFrame, *, popularity: bool) -> DataFrame:
    """The items that may be drawn: ``_item, _weight, _own`` and ``_index``, from 0 by their value.

    Where the columns of an item differ from row to row, those with the smallest hash are taken.
    """
    weight = F.count_if(F.col("_train") & F.col("_row").isNotNull()) if popularity else F.lit(1)
    hashed = F.struct(F.xxhash64("_own"), F.col("_own"))
    return (
        touches.where(F.col("_item").isNotNull())
        .groupBy("_item")
        .agg(weight.alias("_weight"), F.min(hashed)["_own"].alias("_own"))
        .where(F.col("_weight") > 0)
        .withColumn("_index", F.row_number().over(Window.orderBy("_item")) - 1)
    )


def _users(touches: DataFrame, items: DataFrame) -> DataFrame:
    """Per user with positives: ``_seen``, items ascending, ``_rows``, hashes, and nulls counted."""
    is_positive = F.col("_row").isNotNull()
    return (
        touches.join(items.select("_item", "_index"), "_item", "left")
        .groupBy("_user")
        .agg(
            F.array_sort(F.collect_set("_index")).alias("_seen"),
            F.collect_set("_row").alias("_rows"),
            F.count_if(is_positive & F.col("_user").isNull()).alias("_no_user"),
            F.count_if(is_positive & F.col("_item").isNull()).alias("_no_item"),
        )
        .where(F.size("_rows") > 0)
    )


def _check(users: DataFrame, num_items: int, negatives: NegativesConfig) -> None:
    per_positive = negatives.per_positive
    is_short = F.col("_user").isNotNull() & (F.size("_seen") > F.lit(num_items - per_positive))
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
        whose, advice = (
            ("the items that are positive in training rows", "take strategy: uniform")
            if negatives.strategy == "popularity"
            else ("all items", "leave those users out")
        )
        raise DataError(
            f"negatives: {num_short} users, such as {name}, have fewer than {per_positive} items "
            f"that they never touched left of {num_items}, {whose}; lower negatives.per_positive "
            f"or {advice}"
        )


def _draw_batches(ends: Broadcast[Integers], per_positive: int, batches: Batches) -> Batches:
    for batch in batches:
        user, seen, rows = batch.columns
        num_rows = rows.value_lengths().to_numpy()
        hashes = rows.flatten()
        drawn = draw_items(
            ends.value,
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
            [user.take(pa.array(owner)), hashes, lists], ["_user", "_row", "_index"]
        )


def draw_items(
    ends: Integers,
    seen: Integers,
    num_seen: Integers,
    hashes: Integers,
    num_rows: Integers,
    per_positive: int,
) -> Integers:
    """Draw distinct items for each row, in proportion to their weights, but none its user has seen.

    Items lie on a line, each as long as its weight. For a user the pieces of the items seen are cut
    out and the rest pushed together; a draw is a point on what is left, and the item
    it lies on is cut out for the row's next draws. So nothing is ever drawn again.

    Args:
        ends: [I] sums of the weights (at least 1) up to and with each item.
        seen: Items that each user has seen, ascending, user after user.
        num_seen: [U] how many each has.
        hashes: [R] a random 64-bit number of each row, user after user.
        num_rows: [U] how many each user has.
        per_positive: Draws for a row.

    Returns:
        [R, per_positive] items. A probability is off by less than (sum of weights) / 2**64 of
        itself.
    """
    weights, total = np.diff(ends, prepend=0), ends[-1]
    # The sums of the weights of all users' seen items, and where each user's begin among them.
    cut = np.concatenate([[0], np.cumsum(weights[seen])])
    begin = np.concatenate([[0], np.cumsum(num_seen)])
    of_seen, of_row = (np.repeat(np.arange(len(n)), n) for n in (num_seen, num_rows))
    # Where each cut is on its user's pushed line; the users' lines follow one another.
    at = ends[seen] - weights[seen] - (cut[:-1] - cut[begin[of_seen]]) + of_seen * (total + 1)
    room = total - (cut[begin[1:]] - cut[begin[:-1]])[of_row]
    drawn = np.empty((len(hashes), per_positive), np.int64)
    starts = np.empty((len(hashes), 0), np.int64)
    for number in range(per_positive):
        point = (split_mix(hashes, number) % room.astype(np.uint64)).astype(np.int64)
        order = np.argsort(starts, axis=1)
        for start, item in zip(
            np.take_along_axis(starts, order, 1).T,
            np.take_along_axis(drawn[:, :number], order, 1).T,
            strict=True,
        ):
            point = np.where(point >= start, point + weights[item], point)
        num_cut = np.searchsorted(at, point + of_row * (total + 1), side="right")
        whole = point + cut[num_cut] - cut[begin[of_row]]
        item = drawn[:, number] = np.searchsorted(ends, whole, side="right")
        starts = np.column_stack([starts, point - (whole - ends[item] + weights[item])])
        room -= weights[item]
    return drawn


def split_mix(hashes: Integers, number: int) -> NDArray[np.uint64]:
    """Output ``number`` (from 0) of the SplitMix64 generators with these seeds (Steele 2014)."""
    z = hashes.astype(np.uint64) + np.uint64((number + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
