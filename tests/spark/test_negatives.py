"""Drawn negatives against a pool written out item by item, and what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.errors import ConfigError, DataError
from conf.negatives import NegativesConfig
from conf.schema import Config
from feature_eng.canonical import canonical_rows
from feature_eng.draws import draw_items, split_mix
from feature_eng.negatives import DRAWN, with_negatives
from feature_eng.raw import KEYS
from tests.data import make_config
from tests.data import settings as run_settings

_M = 2**64 - 1


def mixed(seed: int, number: int) -> int:
    """SplitMix64 as its authors publish it, output by output."""
    state = seed & _M
    for _ in range(number + 1):
        state = (state + 0x9E3779B97F4A7C15) & _M
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _M
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _M
    return z ^ (z >> 31)


def drawn_from_a_pool(weights: list[int], seen: set[int], seed: int, draws: int) -> list[int]:
    """Each item as often as it weighs, without those seen, and without those drawn before."""
    pool = [i for i, weight in enumerate(weights) for _ in range(weight) if i not in seen]
    found = []
    for number in range(draws):
        found.append(pool[mixed(seed, number) % len(pool)])
        pool = [i for i in pool if i != found[-1]]
    return found


def draw(
    weights: list[int], users: list[tuple[set[int], list[int]]], draws: int
) -> list[list[int]]:
    """The draws of each row, user after user."""
    seen = [sorted(items) for items, _ in users]
    found = draw_items(
        np.cumsum(weights),
        np.array([item for items in seen for item in items], np.int32),
        np.array([len(items) for items in seen], np.int32),
        np.array([seed for _, seeds in users for seed in seeds], np.int64),
        np.array([len(seeds) for _, seeds in users], np.int32),
        draws,
    )
    return found.tolist()


@st.composite
def situations(draw_from: st.DrawFn) -> tuple[list[int], list[tuple[set[int], list[int]]], int]:
    weights = draw_from(st.lists(st.integers(1, 5) | st.just(10**9), min_size=2, max_size=8))
    draws = draw_from(st.integers(1, min(3, len(weights))))
    items = st.sets(st.integers(0, len(weights) - 1), max_size=len(weights) - draws)
    seeds = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)
    return weights, draw_from(st.lists(st.tuples(items, seeds), min_size=1, max_size=5)), draws


def test_the_generator_is_split_mix() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [int(split_mix(np.array([1234567]), n)[0]) for n in range(3)] == published


@settings(max_examples=100, deadline=None)
@given(situations())
def test_draws_are_distinct_items_that_were_never_seen(
    situation: tuple[list[int], list[tuple[set[int], list[int]]], int],
) -> None:
    weights, users, draws = situation
    found = draw(weights, users, draws)
    owners = [seen for seen, seeds in users for _ in seeds]
    for seen, items in zip(owners, found, strict=True):
        assert len(items) == len(set(items)) == draws
        assert set(items) <= set(range(len(weights))) - seen
    # Alone and in other company a user's rows get the same.
    assert found == [row for user in users for row in draw(weights, [user], draws)]
    if max(weights) < 10**9:  # a pool that can be written out
        assert found == [
            drawn_from_a_pool(weights, seen, seed, draws) for seen, seeds in users for seed in seeds
        ]


@pytest.mark.parametrize("weights", [[1] * 8, [1, 40, 3, 7, 2, 19, 5, 11]])
def test_frequencies_are_those_of_the_weights(weights: list[int]) -> None:
    rows, seen = 40_000, {1, 6}
    first, second = zip(*draw(weights, [(seen, list(range(rows)))], 2), strict=True)
    left = {i: weight for i, weight in enumerate(weights) if i not in seen}
    total = sum(left.values())
    share = {i: weight / total for i, weight in left.items()}
    then = {i: sum(share[j] * left[i] / (total - left[j]) for j in left if j != i) for i in left}
    for found, expected in ((Counter(first), share), (Counter(second), then)):
        chi = sum((found[i] - rows * p) ** 2 / (rows * p) for i, p in expected.items())
        assert chi < 20.5, "one in a thousand exceeds it by chance, with 5 degrees of freedom"


NEGATIVES: dict[str, Any] = {
    "per_positive": 3,
    "user": ["country", "user"],
    "item": "item.id",
    "item_columns": ["genres", "maker"],
    "seed": 5,
}
USERS, ITEMS, ROWS = 9, 30, 150


def ratings(spark: SparkSession, seed: int) -> DataFrame:
    """Ratings 0 to 5, some of a pair twice, genres by item; rows without a user or item rate 0."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, USERS, ROWS), (rng.beta(1, 2, ROWS) * ITEMS).astype(int)
    rows = [
        (n, f"c{u % 2}", int(u) // 2, f"i{i}", [f"g{i % 4}", f"g{i % 3}"], f"m{i}", f"at {n}", r)
        for n, (u, i, r) in enumerate(
            zip(user, item, map(int, rng.integers(0, 6, ROWS)), strict=True)
        )
    ]
    rows += [(ROWS, "c0", None, *rows[0][3:7], 0), (ROWS + 1, "c0", 1, None, None, "", "", 0)]
    schema = "n int, country string, user int, `item.id` string, genres array<string>, "
    return spark.createDataFrame(rows, schema + "maker string, context string, rating int")


def negatives_of(raw: DataFrame, *, apart: bool = False, **changes: Any) -> DataFrame:
    return with_negatives(
        raw,
        NegativesConfig.model_validate(NEGATIVES | changes),
        keys=[F.col("n"), F.col("`item.id`")],
        positive=F.col("rating") >= 3,
        train=F.col("n") % 3 > 0,
        apart=apart,
    )


@pytest.mark.parametrize(
    ("seed", "strategy", "apart", "layouts"),
    [
        (2, "uniform", False, [1, 7]),
        (6, "popularity", False, [3]),
        (4, "uniform", True, [2]),
        (5, "popularity", True, [4]),
    ],
)
def test_rows_are_those_of_a_dictionary(
    spark: SparkSession, seed: int, strategy: str, apart: bool, layouts: list[int]
) -> None:
    raw = ratings(spark, seed)
    if apart:  # an item's maker is renamed in the rows that do not train
        later = F.when(F.col("n") % 3 == 0, " later").otherwise("")
        raw = raw.withColumn("maker", F.concat("maker", later))
    # As with the keys, the hash's seed is hashed first.
    seeds = dict(raw.select("n", F.xxhash64(F.lit(5), F.struct("n", F.col("`item.id`")))).collect())
    rows = {row["n"]: row.asDict() for row in raw.collect()}
    positives = [row for row in rows.values() if row["rating"] >= 3]
    in_order = sorted(rows.values(), key=lambda row: row["n"] % 3 > 0)  # what trains says the last
    own = {row["item.id"]: (row["genres"], row["maker"]) for row in in_order}
    trained = {row["item.id"] for row in rows.values() if row["n"] % 3 > 0}
    assert set(own) > trained
    popular = Counter(row["item.id"] for row in positives if row["n"] % 3 > 0)
    names = sorted(item for item in (popular if strategy == "popularity" else own) if item)
    weights = [popular[item] if strategy == "popularity" else 1 for item in names]
    expected = [tuple(row.values()) for row in rows.values()]
    for row in positives:
        seen = {
            names.index(other["item.id"])
            for other in rows.values()
            if (other["country"], other["user"]) == (row["country"], row["user"])
            and other["item.id"] in names
        }
        if apart and row["n"] % 3 > 0:
            seen |= {names.index(item) for item in names if item not in trained}
        for index in drawn_from_a_pool(weights, seen, seeds[row["n"]], 3):
            item = names[index]
            of_item = {"item.id": item, "genres": own[item][0], "maker": own[item][1]}
            expected.append(tuple((row | of_item).values()))
    assert len(expected) > ROWS + 3 * 50
    for partitions in layouts:
        laid_out = raw.repartition(partitions, F.xxhash64("n", F.lit(partitions)))
        found = negatives_of(laid_out, apart=apart, strategy=strategy).collect()
        assert Counter(row[DRAWN] for row in found)[True] == 3 * len(positives)
        assert sorted(map(str, (tuple(row)[:-1] for row in found))) == sorted(map(str, expected))


def test_drawn_rows_have_label_0_and_one_set_of_item_columns(
    spark: SparkSession, tmp_path: Path
) -> None:
    plain = run_settings(tmp_path) | {
        "keys": ["user", "item"],
        "label": {"column": "rating", "threshold": 0},
        "fields": [
            {"name": "maker", "kind": "categorical"},
            {"name": "hour", "kind": "categorical"},
        ],
        "negatives": {"per_positive": 1, "user": ["user"], "item": "item"}
        | {"item_columns": ["maker"]},
    }
    rows = [(u, i, 5, f"{u}", f"m{i}{u}") for u in range(20) for i in (0, 1 + u % 2)]
    raw = spark.createDataFrame(rows, "user int, item int, rating int, hour string, maker string")
    found = canonical_rows(raw, Config.model_validate(plain)).collect()
    drawn = [row for row in found if row["label"] == 0]
    assert len(drawn) == 40
    assert len(found) == 80
    # All touched item 0 and one of 1 and 2; the other is left.
    assert {(row[KEYS]["user"] % 2, row[KEYS]["item"]) for row in drawn} == {(0, 2), (1, 1)}
    assert all(row["hour"] == str(row[KEYS]["user"]) for row in drawn)
    makers = {(row[KEYS]["item"], row["maker"]) for row in drawn}
    assert len(makers) == 2
    assert makers <= {(i, maker) for _, i, _, _, maker in rows}


def test_what_cannot_be_drawn_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    raw = ratings(spark, 2).withColumn("rating", F.lit(5)).persist()
    with pytest.raises(DataError, match="country or user is null in 1 rows with label 1"):
        negatives_of(raw)
    with pytest.raises(DataError, match=r"item\.id is null in 1 rows with label 1"):
        negatives_of(raw.where("user is not null"))
    whole = raw.where(f"n < {ROWS}")
    message = "9 users, such as country='c0', user=0, have fewer than 30 items .* of 2., all items"
    with pytest.raises(DataError, match=message):
        negatives_of(whole, per_positive=30)
    few = whole.where("n % 3 = 0 or n = 1")
    with pytest.raises(DataError, match=r"of 1, the items that are positive in training.*uniform"):
        negatives_of(few, strategy="popularity")
    with pytest.raises(DataError, match=r"column 'brand' \(wanted by 'negatives.item_columns'\)"):
        negatives_of(whole, item_columns=["brand"])
    by_time = run_settings(tmp_path) | {
        "negatives": {"per_positive": 1, "user": ["user"], "item": "item"},
        "split": {"kind": "time", "column": "user", "valid_from": 4, "test_from": 5},
        "fields": [{"name": "item", "kind": "categorical"}],
    }
    rows = spark.range(6).selectExpr("id as user", "id as item", "1 as clicked")
    one = rows.where("user not in (1, 2, 3)")
    with pytest.raises(
        DataError, match=r"1 users, such as user=0, .* 1, the items of training rows"
    ):
        canonical_rows(one, Config.model_validate(by_time))


def test_a_config_that_cannot_draw_is_refused(tmp_path: Path) -> None:
    section = "negatives={per_positive: 2, user: [user], item: item"
    regression = ["task=regression", "train.early_stopping.metric=rmse"]
    for overrides, message in (
        ([section + "}", *regression], "negatives: .* for task binary only"),
        ([section + ", item_columns: [User]}"], "negatives: 'user' is named twice"),
        ([section + ", per_positve: 3}"], "did you mean 'per_positive'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_config(tmp_path, *overrides)
