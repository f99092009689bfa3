"""Every kind of field against tables written by hand, numpy, and a hash written again."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.fields import FieldConfig
from conf.manifest import FieldSpec
from conf.schema import Config
from feature_eng.build import canonical_rows
from feature_eng.chunks import read_rows
from feature_eng.fields import fitted_specs, unfitted_specs
from feature_eng.profile import profile_rows, quantile_columns
from feature_eng.raw import field_column, key_columns
from feature_eng.vocabulary import fit_vocabulary, measured
from tests.data import settings
from tests.encoding import dictionaries, encode, packed
from tests.unit.test_xxhash64 import xxh64


def bucket(value: str, seed: int, buckets: int) -> int:
    """The id that a hashed value should have: Spark hashes the seed first, from 42."""
    hashed = xxh64(value.encode(), xxh64(seed.to_bytes(4, "little"), 42))
    signed = hashed - 2**64 if hashed >= 2**63 else hashed
    return 1 + signed % buckets


def configs(*fields: dict[str, Any]) -> list[FieldConfig]:
    return [TypeAdapter[FieldConfig](FieldConfig).validate_python(field) for field in fields]


def configured(tmp_path: Path, *fields: dict[str, Any]) -> Config:
    """All rows are for training but two copies of the last: valid and test."""
    plain = settings(tmp_path) | {"fields": list(fields), "keys": ["row"]}
    plain |= {"label": {"column": "y"}, "task": "regression"}
    plain["train"]["early_stopping"]["metric"] = "rmse"
    plain["split"] = {"kind": "time", "column": "row", "valid_from": 1000, "test_from": 1001}
    return Config.model_validate(plain)


def encoded(
    raw: DataFrame, tmp_path: Path, *fields: dict[str, Any]
) -> tuple[dict[str, list[Any]], list[FieldSpec]]:
    """Fit on the rows below 1000 and encode all, by row."""
    config = configured(tmp_path, *fields)
    unfitted = unfitted_specs(config.fields)
    rows = canonical_rows(raw, config)
    entries = dictionaries(rows, unfitted, tmp_path / "chunks")
    vocabulary = measured(fit_vocabulary(entries, config.fields))
    profile = profile_rows(rows, config, unfitted)
    specs = fitted_specs(unfitted, config.fields, profile, vocabulary.sizes)
    all_rows = raw.select(*(field_column(raw, spec) for spec in specs), key_columns(raw, ["row"]))
    found = encode(all_rows, specs, vocabulary, tmp_path / "scored")
    found.sort(key=lambda row: int(row["_keys"]["row"]))
    return {spec.name: [row[spec.name] for row in found] for spec in specs}, specs


def table(spark: SparkSession, name: str, kind: str, values: list[Any]) -> DataFrame:
    """Rows 0, 1, ... for training with these values; the last one again in valid and test."""
    ids = [*range(len(values)), 1000, 1001]
    rows = [
        (i, float(i % 2), value) for i, value in zip(ids, [*values, *values[-1:] * 2], strict=True)
    ]
    return spark.createDataFrame(rows, f"row int, y double, {name} {kind}")


def test_sources_become_canonical_values(spark: SparkSession) -> None:
    raw = spark.sql(
        "select 'a' as u, 7 as `odd.name`, 'x|y||z' as tags, timestamp'2024-02-29 13:05:00' as at "
        "union all select 'b', null, '', null order by u"
    )
    fields = configs(
        {"name": "pair", "kind": "categorical", "cross": ["u", "odd.name"]},
        {"name": "tags", "kind": "multi_valued", "max_length": 5, "delimiter": "|"},
        {"name": "hour", "kind": "categorical", "column": "at", "part": "hour"},
        {"name": "week", "kind": "hashed", "num_buckets": 9, "column": "at", "part": "week"},
        {"name": "doy", "kind": "categorical", "expr": "date(at)", "part": "day_of_year"},
        {"name": "weekday", "kind": "categorical", "column": "at", "part": "weekday"},
    )
    found = raw.select(*[field_column(raw, spec) for spec in unfitted_specs(fields)]).collect()
    assert tuple(found[0]) == ('["a","7"]', ["x", "y", "z"], "13", bucket("9", 0, 9), "60", "3")
    assert tuple(found[1]) == (None, [], None, 0, None, None)


def test_crossed_values_that_join_alike_are_told_apart(spark: SparkSession) -> None:
    raw = spark.createDataFrame([('a","b', "c"), ("a", 'b","c')], "u string, v string")
    (spec,) = unfitted_specs(configs({"name": "p", "kind": "categorical", "cross": ["u", "v"]}))
    one, other = raw.select(field_column(raw, spec)).collect()
    assert one != other


def test_a_delimiter_is_taken_as_it_is(spark: SparkSession) -> None:
    delimiters = ["|", ".", "'", "\\", "||", "$1"]
    names = [f"t{number}" for number in range(len(delimiters))]
    row = tuple(delimiter.join(["p", "q", "r"]) for delimiter in delimiters)
    raw = spark.createDataFrame([row], ", ".join(f"{name} string" for name in names))
    fields = configs(
        *(
            {"name": name, "kind": "multi_valued", "max_length": 3, "delimiter": delimiter}
            for name, delimiter in zip(names, delimiters, strict=True)
        )
    )
    found = raw.select(*[field_column(raw, spec) for spec in unfitted_specs(fields)]).head()
    assert found == (["p", "q", "r"],) * len(delimiters)


def test_edges_are_looked_for_where_they_are_wanted(spark: SparkSession, tmp_path: Path) -> None:
    plain = {"kind": "bucketised", "column": "n", "num_buckets": 4}
    fields = [
        plain | {"name": "a"},
        plain | {"name": "b", "method": "log2"},
        plain | {"name": "c", "method": "edges", "edges": [1.0]},
        plain | {"name": "old"},
        plain | {"name": "wide", "method": "log2"},
    ]
    wanted = quantile_columns(configured(tmp_path, *fields), ["old", "wide", "gone"])
    assert list(wanted) == ["quantiles:a"]


def test_hashed_ids_are_those_of_xxhash64(spark: SparkSession, tmp_path: Path) -> None:
    words = ["", "a", "four", "eight888", "thirteen bytes", "Zürich", None]
    field = {"name": "word", "kind": "hashed", "num_buckets": 1000, "seed": 17}
    found, (spec,) = encoded(table(spark, "word", "string", words), tmp_path, field)
    expected = [0 if word is None else bucket(word, 17, 1000) for word in words]
    assert found["word"][: len(words)] == expected
    assert spec.cardinality == 1001


def test_a_vocabulary_of_limited_size_hashes_the_rest(spark: SparkSession, tmp_path: Path) -> None:
    words = ["top", "top", "top", "mid", "mid", "low", "rare", None]
    field = {"name": "word", "kind": "categorical", "max_size": 2, "num_oov_buckets": 50}
    found, (spec,) = encoded(table(spark, "word", "string", words), tmp_path, field)
    low, rare = bucket("low", 0, 50), bucket("rare", 0, 50)
    assert found["word"][: len(words)] == [51, 51, 51, 52, 52, low, rare, 0]
    assert spec.cardinality == 53


def test_unknown_items_of_a_list_are_hashed(spark: SparkSession, tmp_path: Path) -> None:
    lists = [["a", "b"], ["a", "c"], [], ["a", "b", "c", "d"]]
    field = {"name": "tags", "kind": "multi_valued", "max_length": 3, "num_oov_buckets": 9}
    raw = table(spark, "tags", "array<string>", lists)
    found, (spec,) = encoded(raw, tmp_path, field | {"max_size": 2})
    c = bucket("c", 0, 9)
    assert found["tags"][:4] == [[10, 11, -1], [10, c, -1], [0, -1, -1], [10, 11, c]]
    # one of four training rows holds more than three, and so does the only row of the others
    assert spec.truncated_rate == {"train": 0.25, "valid": 1.0, "test": 1.0}


PRICES = [-4.0, 0.0, 1.0, 3.0, 100.0, None, 7.0]


SCALES: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda x: (x - x.mean()) / x.std()),
    ({"scale": "none"}, lambda x: x),
    ({"scale": "min_max"}, lambda x: (x + 4) / 104),
    ({"scale": "none", "clip": [0, 10]}, lambda x: np.clip(x, 0, 10)),
    ({"scale": "min_max", "clip": [None, 6]}, lambda x: (np.minimum(x, 6) + 4) / 10),
    ({"scale": "none", "log1p": True, "clip": [0, None]}, lambda x: np.log1p(x.clip(0))),
    (
        {"log1p": True, "clip": [0, 50]},
        lambda x: (
            (np.log1p(x.clip(0, 50)) - np.log1p(x.clip(0, 50)).mean())
            / np.log1p(x.clip(0, 50)).std()
        ),
    ),
]


def test_numbers_are_scaled_as_numpy_does(spark: SparkSession, tmp_path: Path) -> None:
    fields = [
        {"name": f"x{number}", "column": "price", "kind": "numeric"} | options
        for number, (options, _) in enumerate(SCALES)
    ]
    found, _ = encoded(table(spark, "price", "double", PRICES), tmp_path, *fields)
    present = [price is not None for price in PRICES]
    known = np.array([price for price in PRICES if price is not None])
    for number, (_, reference) in enumerate(SCALES):
        got = np.array(found[f"x{number}"][: len(PRICES)])
        np.testing.assert_allclose(got[present], reference(known), rtol=1e-6, atol=1e-7)
        assert got[PRICES.index(None)] == 0


def test_a_number_that_never_varies_is_shifted_alone(spark: SparkSession, tmp_path: Path) -> None:
    """Merging the deviations of partitions leaves some of the last bits, in other rows by 1e16."""
    constants = {"seven": 7.0, "third": 1e6 / 3, "zero": 0.0, "almost": 7.0}
    values = [F.lit(value).alias(name) for name, value in constants.items() if name != "almost"]
    almost = F.when(F.col("row") == 5, math.nextafter(7.0, 8.0)).otherwise(7.0).alias("almost")
    ids = spark.range(0, 800, 1, 4).union(spark.range(1000, 1002))
    raw = ids.select(
        F.col("id").cast("int").alias("row"), (F.col("id") % 2.0).alias("y"), *values, almost
    )
    fields = [
        {"name": f"{name}_{scale}", "column": name, "kind": "numeric", "scale": scale}
        for name in constants
        for scale in ("standard", "min_max")
    ]
    config = configured(tmp_path, *fields)
    scales = profile_rows(canonical_rows(raw, config), config, unfitted_specs(config.fields)).scales
    deviation = raw.where("row < 1000").agg(F.stddev_pop("seven")).head()
    assert deviation is not None
    assert 0 < deviation[0] < 1e-14, "else there is nothing to see here"
    assert scales == {
        f"{name}_{scale}": (value, 1.0)
        for name, value in constants.items()
        for scale in ("standard", "min_max")
    }


def test_rows_that_differ_have_another_order(spark: SparkSession, tmp_path: Path) -> None:
    """Also where they hold the same values, in other columns or lists."""
    cases = [
        "1.0, null, 'x', array('a'), array('b'), 2.0",
        "1.0, 'x', null, array('a'), array('b'), 2.0",
        "1.0, 'x', null, array('a', 'b'), array(), 2.0",
        "1.0, 'x', null, array(), array('a', 'b'), 2.0",
        "1.0, 'x', null, null, array('a', 'b'), 2.0",  # is encoded as the one before
        "0.0, 'x', null, null, array('a', 'b'), 2.0",
        "1.0, 'x', null, null, array('a', 'b'), null",
    ]
    rows = [f"({key}, {case})" for case in cases for key in ("1, null", "null, 1", "1, 1")]
    raw = spark.sql(f"select * from values {', '.join(rows)} as t(row, key, y, a, b, v, w, n)")
    fields = [{"name": name, "kind": "categorical"} for name in "ab"]
    fields += [{"name": name, "kind": "multi_valued", "max_length": 9} for name in "vw"]
    fields += [{"name": "n", "kind": "numeric"}]
    config = configured(tmp_path, *fields).model_copy(update={"keys": ["row", "key"]})

    def orders(config: Config, directory: str) -> set[int]:
        rows = canonical_rows(raw, config)
        chunks = packed(rows, unfitted_specs(config.fields), tmp_path / directory)
        found = [read_rows(chunks.directory, chunk) for chunk in chunks.chunks]
        return {order for table in found for order in table["_order"].to_pylist()}

    once = orders(config, "once")
    assert len(once) == 3 * 6
    seeded = config.features.model_copy(update={"seed": config.features.seed + 1})
    assert not once & orders(config.model_copy(update={"features": seeded}), "seeded")


def test_edges_are_given_or_powers_of_two(spark: SparkSession, tmp_path: Path) -> None:
    values = [-3.0, 0.0, 0.99, 1.0, 1.5, 2.0, 7.9, 8.0, None, 9.0]
    by = {"column": "n", "kind": "bucketised"}
    found, (given, log2) = encoded(
        table(spark, "n", "double", values),
        tmp_path,
        {"name": "given", "method": "edges", "edges": [0, 2, 8]} | by,
        {"name": "log2", "method": "log2"} | by,
    )
    assert found["given"][: len(values)] == [2, 3, 3, 3, 3, 4, 4, 5, 0, 5]
    assert given.cardinality == 6
    expected = [2 if v < 1 else 3 + math.floor(math.log2(v)) for v in values if v is not None]
    assert [i for i in found["log2"][: len(values)] if i] == expected
    assert log2.edges == [1.0, 2.0, 4.0, 8.0]
