"""Odd and broken raw tables: what becomes of each value, and what is refused.

``test_build`` has the contract of the label and the types, and fields without any value.
"""

import math
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from conf.errors import DataError, PipelineError
from conf.schema import Config
from feature_eng import spark_errors
from feature_eng.build import build_features
from feature_eng.raw import read_raw, rows_of_days
from feature_eng.scoring import canonical_score_rows, rows_of_day, score_rows
from tests.data import DS, make_config, raw_table, settings, write_raw
from tests.encoding import as_if_large, score_writer

COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"  # both are shown as é
LONG, LONGER = "x" * 2**20, "x" * 2**20 + "y"

# Of 20 training rows, one to validate and one to test: what the raw table says, and the encoding.
# Known values are numbered by count, then in byte order.
TEXT = [
    (["a"] * 5, 2),
    ([""] * 4, 3),  # a value like others, and not the missing one
    ([COMPOSED] * 3, 4),
    ([DECOMPOSED] * 2, 5),  # other bytes, another value
    ([LONG] * 2, 6),
    ([LONGER], 7),
    ([None] * 3, 0),
    ([COMPOSED.upper()], 1),
    ([""], 3),
]
# 90% of the rows hold one value.
MOSTLY = [(["m"] * 18, 2), (["n"], 3), ([None], 0), (["o"], 1), (["m"], 2)]
PILED = [([5] * 18, 3), ([1], 2), ([9], 3), ([4], 2), ([None], 0)]
NUMBER = [
    ([1.0] * 7, -1.0),
    ([3.0] * 7, 1.0),
    ([math.nan, math.inf, -math.inf, 1e300, None, None], 0.0),
    ([5.0], 3.0),
    ([math.nan], 0.0),
]
NOTHING = [0, -1, -1]
LISTS = [
    ([[], None, [None]], NOTHING),
    ([["b"]], [2, -1, -1]),
    ([["b", None, ""]], [2, 3, -1]),  # a null in a list is no value, an empty string is
    ([["", "b", "c", "d"]], [3, 2, 4]),
    ([None] * 14, NOTHING),
    ([["d", "c"]], [1, 4, -1]),
    ([[]], NOTHING),
]
DELIMITED = [
    (["", None, "|"], NOTHING),  # between two delimiters, there is nothing
    (["b"], [2, -1, -1]),
    (["b||c"], [2, 3, -1]),
    ([f"{COMPOSED}|{DECOMPOSED}"], [5, 4, -1]),
    ([None] * 15, NOTHING),
    (["c|"], [3, -1, -1]),
]
SPLIT = [*["train"] * 20, "valid", "test"]
COLUMNS: dict[str, tuple[str, list[tuple[list[Any], Any]], pa.DataType]] = {
    "text": ("odd.text", TEXT, pa.string()),
    "mostly": ("most `of` them", MOSTLY, pa.string()),
    "piled": ("piled.up ", PILED, pa.int32()),
    "number": ("a number", NUMBER, pa.float64()),
    "lists": ("lists.of x", LISTS, pa.list_(pa.string())),
    "delimited": ("tags, joined", DELIMITED, pa.string()),
}
FIELDS = [
    {"name": "row", "column": "row.id", "kind": "categorical"},
    {"name": "pair", "cross": ["row.id", "most `of` them"], "kind": "hashed", "num_buckets": 9},
    {"name": "month", "column": "the.day ", "kind": "hashed", "num_buckets": 9} | {"part": "month"},
    {"name": "text", "column": "odd.text", "kind": "categorical"},
    {"name": "mostly", "column": "most `of` them", "kind": "categorical"},
    {"name": "piled", "column": "piled.up ", "kind": "bucketised", "num_buckets": 4},
    {"name": "number", "column": "a number", "kind": "numeric"},
    {"name": "lists", "column": "lists.of x", "kind": "multi_valued", "max_length": 3},
    {"name": "delimited", "column": "tags, joined", "kind": "multi_valued", "max_length": 3}
    | {"delimiter": "|"},
]


def odd_table() -> pa.Table:
    given = {
        column: pa.array([value for values, _ in cases for value in values], kind)
        for column, cases, kind in COLUMNS.values()
    }
    return pa.table(
        {"row.id": range(22), "key two": ["k"] * 22, "the label.": range(22)}
        | {"s plit": SPLIT, "the.day ": [DS] * 22}
        | given
    )


def odd_config(root: Path) -> Config:
    plain = settings(root) | {
        "task": "regression",
        "raw": {"path": f"{root}/raw", "ds_column": "the.day "},
        "keys": ["row.id", "key two"],
        "label": {"column": "the label."},
        "fields": FIELDS,
        "split": {"kind": "column", "column": "s plit"},
    }
    plain["score"]["raw"]["ds_column"] = "the.day "
    plain["train"]["early_stopping"]["metric"] = "rmse"
    return Config.model_validate(plain)


def digest(encodings: Iterable[Any]) -> float:
    return float(zlib.crc32(repr(list(encodings)).encode()))


def digests(columns: dict[str, Any]) -> dict[str, Any]:
    """Stands for a model: what it sees of a row, as a number."""
    rows = zip(*(columns[name].tolist() for name in COLUMNS), strict=True)
    scores = np.array([digest(row) for row in rows])
    return {"output": scores, "model_score": scores, "score": scores}


@pytest.mark.parametrize("by_joins", [False, True])
def test_odd_values_under_odd_names(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_joins: bool
) -> None:
    """Built and scored, against the encodings above."""
    if by_joins:
        as_if_large(monkeypatch)
    write_raw(tmp_path / "raw", odd_table())
    write_raw(tmp_path / "tonight", odd_table().drop_columns(["the label.", "s plit"]))
    config = odd_config(tmp_path)
    manifest = build_features(spark, config, overwrite=False, ds_from=DS)
    names = pq.read_table(f"{config.features.path}/vocabulary").to_pylist()
    row_of = {entry["id"]: int(entry["value"]) for entry in names if entry["field"] == "row"}
    built = {}
    for split, unseen in (("train", None), ("valid", 20), ("test", 21)):
        for row in pq.read_table(f"{config.features.path}/{split}").to_pylist():
            built[row_of.get(row["row"], unseen)] = row
    expected = {
        name: [encoding for values, encoding in cases for _ in values]
        for name, (_, cases, _) in COLUMNS.items()
    }
    for name, encodings in expected.items():
        assert [built[row][name] for row in range(22)] == encodings, name
    assert {built[row]["month"] for row in range(22)} - {0} == {built[0]["month"]}
    assert [row for row in range(22) if built[row]["pair"] == 0] == [19]  # one of the two is null

    raw = rows_of_day(spark, config.score, DS)
    rows = canonical_score_rows(raw, manifest.fields, manifest.keys)
    writer = score_writer(config.features.path, manifest, rows, digests, tmp_path / "scores")
    assert score_rows(rows, writer)[1].rows == 22
    scores = pq.read_table(tmp_path / "scores").to_pylist()
    found = {(row["row.id"], row["key two"]): row["score"] for row in scores}
    assert found == {
        (row, "k"): digest(encodings[row] for encodings in expected.values()) for row in range(22)
    }


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def as_text(path: Path, column: str) -> None:
    table = pq.read_table(path)
    number = table.column_names.index(column)
    pq.write_table(table.set_column(number, column, table[column].cast(pa.string())), path)


def twice(path: Path, name: str) -> None:
    table = pq.read_table(path)
    pq.write_table(table.append_column(name, table["user"]), path)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("the first cut off", r"part-0\.parquet.* is not a Parquet file"),
        ("the last cut off", r"part-3\.parquet.* is not a Parquet file"),
        ("one of no bytes", r"part-2\.parquet' has 0 bytes"),
        ("another type", r"part-1\.parquet.*column \[age\]. Expected Spark type int.* BINARY"),
        ("another type on a day", r"ds=2026-01-02/part-1\.parquet.*column \[age\]. Expected Spark"),
        ("a name twice", r"/raw' cannot be read: .*column `user` already exists"),
        ("a name in two cases", r"/raw' cannot be read: .*column `user` already exists"),
        ("other files", r"part-0\.parquet.* is not a Parquet file"),
        ("no files", r"/raw' cannot be read: .*Unable to infer schema for Parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    spark: SparkSession, tmp_path: Path, case: str, message: str
) -> None:
    raw = write_raw(tmp_path / "raw", raw_table(100), files=4)
    parts = [raw / f"part-{number}.parquet" for number in range(4)]
    if case == "no files":
        for part in parts:
            part.unlink()
    elif case == "other files":
        for part in parts:
            part.write_text("user,item\nu1,7\n")
    elif "another type" in case:
        as_text(parts[1], "age")
        for number, part in enumerate(parts if "day" in case else [], 1):
            (raw / f"ds=2026-01-0{number}").mkdir()
            part.rename(raw / f"ds=2026-01-0{number}" / part.name)
    elif "name" in case:
        twice(parts[0], "user" if case == "a name twice" else "User")
    else:
        which = {"the first cut off": 0, "the last cut off": 3, "one of no bytes": 2}[case]
        cut(parts[which], 0 if case == "one of no bytes" else parts[which].stat().st_size - 50)
    config = make_config(tmp_path)
    earlier = Path(config.features.path)
    earlier.mkdir(parents=True)
    (earlier / "manifest.json").write_text("earlier")
    with pytest.raises((PipelineError, PySparkException, Py4JError)) as failed:
        build_features(spark, config, overwrite=True)
    error = failed.value
    if not isinstance(error, PipelineError):
        error = spark_errors.explained(error)
    assert isinstance(error, DataError), error
    assert re.search(message, str(error)), error
    assert "\n" not in str(error)
    assert len(str(error)) < 600, error
    assert [path.name for path in earlier.parent.iterdir()] == ["v1"]
    assert (earlier / "manifest.json").read_text() == "earlier"


def test_a_file_of_no_bytes_on_another_day_does_not_matter(
    spark: SparkSession, tmp_path: Path
) -> None:
    for day in ("2026-01-01", DS):
        write_raw(tmp_path / f"raw/ds={day}", raw_table(10))
    (tmp_path / "raw/_SUCCESS").touch()
    cut(tmp_path / f"raw/ds={DS}/part-1.parquet", 0)
    config = make_config(tmp_path).raw
    raw = read_raw(spark, config)
    assert rows_of_days(raw, config, None, "2026-01-01").count() == 10
    with pytest.raises(DataError, match=rf"ds={DS}/part-1\.parquet' has 0 bytes"):
        rows_of_days(raw, config, DS, None)
