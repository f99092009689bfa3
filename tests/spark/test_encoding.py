"""Vocabulary and encoding against tables written by hand."""

import hashlib
import logging
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from conf.errors import DataError
from conf.fields import CategoricalField, MultiValuedField
from conf.manifest import FieldSpec
from conf.schema import SPLITS, ColumnSplit, RandomSplit, TimeSplit
from feature_eng.raw import field_column, named_column
from feature_eng.split import hashed_keys, split_column
from feature_eng.vocabulary import (
    Vocabulary,
    fit_vocabulary,
    measured,
    read_vocabulary,
    write_vocabulary,
)
from tests.encoding import dictionaries, encode
from tests.unit.test_batch import field
from tests.unit.test_xxhash64 import xxh64

ROWS = [
    ("red", ["a", "b"]),
    ("red", ["b"]),
    ("blue", ["b", "b", "c"]),
    ("blue", None),
    ("green", []),
    (None, ["c", "d", "e", "f"]),
]
FIELDS = [
    CategoricalField(name="colour", kind="categorical"),
    MultiValuedField(name="tags", kind="multi_valued", max_length=3, min_count=2),
]


@pytest.fixture
def rows(spark: SparkSession) -> DataFrame:
    days = [date(2026, 1, 3), date(2026, 1, 2), date(2026, 1, 1), None, None, date(2026, 1, 5)]
    return spark.createDataFrame(
        [(*row, day) for row, day in zip(ROWS, days, strict=True)],
        "colour string, tags array<string>, _day date",
    )


def spec(name: str, kind: str, length: int = 1, **fitted: Any) -> FieldSpec:
    return field(name, kind, 10, 0, length).model_copy(update=fitted)


SPECS = [spec("colour", "categorical"), spec("tags", "multi_valued", length=3)]


def chained(*values: str | int) -> int:
    """Spark's xxhash64 of strings and ints: each is hashed with the hash before it, from 42."""
    hashed = 42
    for value in values:
        as_bytes = value.encode() if isinstance(value, str) else value.to_bytes(4, "little")
        hashed = xxh64(as_bytes, hashed)
    return hashed


def fit(rows: DataFrame, directory: Path) -> Vocabulary:
    return measured(fit_vocabulary(dictionaries(rows, SPECS, directory), FIELDS))


def test_vocabulary_orders_by_count_then_value(rows: DataFrame, tmp_path: Path) -> None:
    first, second, third, fifth = (date(2026, 1, day) for day in (1, 2, 3, 5))
    expected = [
        ("colour", "blue", 2, 2, first, first),
        ("colour", "red", 3, 2, second, third),
        ("colour", "green", 4, 1, None, None),
        # a row counts once for a value it holds twice; the fourth tag lies past max_length
        ("tags", "b", 2, 3, first, third),
        ("tags", "c", 3, 2, first, fifth),
    ]
    schema = "field string, value string, id int, count bigint, first_seen date, last_seen date"
    found = fit(rows, tmp_path)
    assertDataFrameEqual(found.entries, rows.sparkSession.createDataFrame(expected, schema))
    assert found.sizes == {"colour": 3, "tags": 2}
    assert {name: known.text_bytes for name, known in found.fields.items()} == {
        "colour": 12,
        "tags": 2,
    }
    totals = []
    for seed in (0, 1):
        hashes = [chained(seed, *entry[:3]) for entry in expected]
        totals.append(sum(hashes) % 2**64)
    assert found.fingerprint == "".join(f"{total:016x}" for total in totals)


def test_ids_and_fingerprint_do_not_depend_on_the_partitioning(
    rows: DataFrame, tmp_path: Path
) -> None:
    one = fit(rows.coalesce(1), tmp_path / "one")
    many = fit(rows.repartition(7, F.rand(1)), tmp_path / "many")
    assertDataFrameEqual(one.entries, many.entries)
    assert one.fingerprint == measured(many.entries.repartition(5)).fingerprint
    write_vocabulary(one.entries.where("value != 'green'"), str(tmp_path))
    with pytest.raises(DataError, match="the files were changed"):
        read_vocabulary(rows.sparkSession, str(tmp_path), one.fingerprint)


def test_swapped_ids_have_another_fingerprint(rows: DataFrame, tmp_path: Path) -> None:
    vocabulary = fit(rows, tmp_path)
    swapped = F.when(F.col("field") == "tags", 5 - F.col("id")).otherwise(F.col("id"))
    other = measured(vocabulary.entries.withColumn("id", swapped.cast("int")))
    assert vocabulary.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("limit", "joined"), [(10**6, []), (0, ["tags", "colour"]), (110, ["colour"])]
)
def test_encoding_by_hand(
    spark: SparkSession,
    rows: DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: int,
    joined: list[str],
) -> None:
    caplog.set_level(logging.INFO, "feature_eng.encode")
    monkeypatch.setattr("feature_eng.encode.BROADCAST_BYTES", limit)
    vocabulary = fit(rows, tmp_path / "fit")
    fields = [
        spec("colour", "categorical"),
        spec("tags", "multi_valued", length=3),
        spec("price", "numeric", shift=2.0, scale=4.0),
        spec("age", "bucketised", edges=[10.0, 20.0]),
    ]
    schema = "id int, colour string, tags array<string>, price double, age double"
    unseen = [
        (1, "red", ["c", "zzz", "b"], 10.0, 9.9),
        (2, "pink", [], None, 10.0),
        (3, None, None, 2.0, None),
        (4, "green", ["a", "b", "c", "b"], -2.0, 20.0),
    ]
    expected = [
        (1, 3, [3, 1, 2], 2.0, 2),
        (2, 1, [0, -1, -1], 0.0, 3),
        (3, 0, [0, -1, -1], 0.0, 0),
        (4, 4, [1, 2, 3], -1.0, 4),
    ]
    found = encode(spark.createDataFrame(unseen, schema), fields, vocabulary, tmp_path / "unseen")
    names = ("id", "colour", "tags", "price", "age")
    by_id = sorted(found, key=lambda row: row["id"])
    assert [tuple(row[name] for name in names) for row in by_id] == expected
    assert f"joined by shuffling: {', '.join(joined) or 'none'}" in caplog.text


def test_values_become_canonical(spark: SparkSession) -> None:
    """Long texts are shortened, and lists are cut after one value too many."""
    longest, longer = "x" * 512, "\u00e9" * 300
    name = "\u00e9" * 100 + "... SHA-256 " + hashlib.sha256(longer.encode()).hexdigest()
    lists = [None, longer, *"abcdefg"], [longest, longer, None]
    raw = spark.createDataFrame(
        [
            (True, 7, float("nan"), [1, None, 2], "98101", longest, *lists),
            (*[None] * 5, longer, *reversed(lists)),
        ],
        "flag boolean, `odd name.x` bigint, amount double, codes array<int>, zip string, "
        "text string, tags array<string>, more array<string>",
    )
    columns = [
        field_column(raw, spec("flag", "categorical")),
        field_column(raw, spec("odd", "categorical", source="odd name.x")),
        field_column(raw, spec("amount", "numeric")),
        field_column(raw, spec("codes", "multi_valued", length=4)),
        field_column(raw, spec("zip2", "categorical", source="substr(zip,1,2)", is_expr=True)),
        field_column(raw, spec("text", "categorical")),
        field_column(raw, spec("tags", "multi_valued", length=4)),
        field_column(raw, spec("more", "multi_valued", length=1)),
    ]
    row, other = raw.select(*columns).collect()
    lists = [name, *"abcd"], [longest, name]
    assert tuple(row) == ("true", "7", None, ["1", "2"], "98", longest, *lists)
    assert tuple(other) == (*[None] * 5, name, [longest, name], [name, "a"])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("amount", "categorical", "'amount' is double, but kind 'categorical' expects a string"),
        ("zip", "numeric", "'zip' is string, but kind 'numeric' expects a number"),
        ("zip", "multi_valued", "expects an array"),
        (
            "colour",
            "categorical",
            "column 'colour' .* it has amount, zip; .* needs options: {mergeSchema",
        ),
    ],
)
def test_a_column_that_does_not_fit_is_named(
    spark: SparkSession, name: str, kind: str, message: str
) -> None:
    raw = spark.createDataFrame([(1.0, "x")], "amount double, zip string")
    with pytest.raises(DataError, match=message):
        field_column(raw, spec(name, kind))


def test_an_expression_that_does_not_fit_is_named(spark: SparkSession) -> None:
    raw = spark.createDataFrame([("x",)], "zip string")
    with pytest.raises(DataError, match=r"field 'f': 'substr\(nope, 1\)' does not fit"):
        field_column(raw, spec("f", "categorical", source="substr(nope, 1)", is_expr=True))


def test_a_random_split_follows_the_keys_alone(spark: SparkSession) -> None:
    raw = spark.range(20_000).select("id", F.rand(1).alias("noise"))
    split = RandomSplit(kind="random", valid=0.1, test=0.2, seed=5)

    def dealt(frame: DataFrame) -> DataFrame:
        keys = [named_column(frame, "id", "keys")]
        return frame.select("id", split_column(frame, keys, split))

    first, again = dealt(raw), dealt(raw.repartition(9).orderBy("noise"))
    assertDataFrameEqual(first, again)
    shares = {SPLITS[r[0]]: r[1] / 20_000 for r in first.groupBy("_split").count().collect()}
    # four standard deviations of a binomial share of 20,000
    assert shares["valid"] == pytest.approx(0.1, abs=0.0085)
    assert shares["test"] == pytest.approx(0.2, abs=0.0115)


def test_a_time_split_cuts_at_the_given_values(spark: SparkSession) -> None:
    raw = spark.sql(
        "select timestamp(t) as at from values ('2024-01-01 10:00'), ('2024-01-02'), "
        "('2024-01-03 00:00:00'), ('2024-02-01'), (null) as v(t)"
    )
    split = TimeSplit(kind="time", column="at", valid_from="2024-01-02", test_from="2024-01-03")
    found = raw.select(split_column(raw, [F.col("at")], split)).collect()
    assert [row[0] for row in found] == [0, 1, 2, 2, -1]
    wrong = TimeSplit(kind="time", column="at", valid_from="soon", test_from="2024-01-03")
    with pytest.raises(DataError, match="'soon' cannot be read as timestamp"):
        split_column(raw, [F.col("at")], wrong)
    number = TimeSplit(kind="time", column="day", valid_from=3, test_from=4)
    with pytest.raises(DataError, match="3 cannot be read as date"):
        split_column(raw.selectExpr("date(at) as day"), [F.col("day")], number)
    half = TimeSplit(kind="time", column="day", valid_from=2.5, test_from=4)
    with pytest.raises(DataError, match=r"2\.5 cannot be read as int"):
        split_column(raw.selectExpr("day(at) as day"), [F.col("day")], half)
    floats = spark.sql(
        "select double(t) as at from "
        "values ('-Infinity'), ('1.5'), ('3'), ('Infinity'), ('NaN') as v(t)"
    )
    split = TimeSplit(kind="time", column="at", valid_from=1.5, test_from=3)
    found = floats.select(split_column(floats, [F.col("at")], split)).collect()
    assert [row[0] for row in found] == [0, 1, 2, 2, -1]


def test_integers_of_any_width_are_dealt_alike(spark: SparkSession) -> None:
    split = RandomSplit(kind="random", valid=0.2, test=0.3, seed=5)
    by_ninth = split.model_copy(update={"by": ["ninth"]})
    wide = spark.range(-50, 50).selectExpr("id", "string(id) as text", "id % 9 as ninth")
    narrow = wide.selectExpr("int(id) as id", "text", "tinyint(ninth) as ninth")
    positions = {}
    for number in range(-50, 50):
        of_seed = chained(5)
        hashed = xxh64(number.to_bytes(8, "little", signed=True), of_seed)
        hashed = xxh64(str(number).encode(), hashed)
        signed = hashed - 2**64 if hashed >= 2**63 else hashed
        positions[number] = signed % 1_000_000 / 1_000_000
    expected = [
        SPLITS.index("test" if at < 0.3 else "valid" if at < 0.5 else "train")
        for at in positions.values()
    ]
    found = []
    for raw in (wide, narrow):
        keys = hashed_keys(raw, ["id", "text"], "keys")
        dealt = [split_column(raw, keys, how) for how in (split, by_ninth)]
        found.append([tuple(row) for row in raw.select(*dealt).collect()])
    assert found[0] == found[1]
    assert [of_keys for of_keys, _ in found[0]] == expected


def test_a_split_by_user_keeps_the_rows_of_a_user_together(spark: SparkSession) -> None:
    raw = spark.range(20_000).selectExpr("id", "id % 1000 as user")
    split = RandomSplit(kind="random", valid=0.1, test=0.2, by=["user"])
    dealt = raw.select("user", split_column(raw, [F.col("id")], split))
    users = dealt.distinct().groupBy("_split").count().collect()
    shares = {SPLITS[row["_split"]]: row["count"] for row in users}
    assert sum(shares.values()) == 1000  # nobody is in two
    # four standard deviations of a binomial count of 1,000
    assert shares["valid"] == pytest.approx(100, abs=38)
    assert shares["test"] == pytest.approx(200, abs=51)


def test_a_column_may_say_the_split(spark: SparkSession) -> None:
    raw = spark.sql(
        "select * from values ('test'), ('train'), ('valid'), ('Train'), (null) as v(s)"
    )
    column = split_column(raw, [F.col("s")], ColumnSplit(kind="column", column="s"))
    found = [row[0] for row in raw.select(column).collect()]
    assert found == [2, 0, 1, -1, -1]
