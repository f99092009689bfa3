"""Texts that workers read from Parquet files by themselves, against those that Spark hands over."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from conf.errors import DataError, RunError
from conf.manifest import Manifest
from conf.schema import Config
from feature_eng.build import build_features
from feature_eng.fields import unfitted_specs
from feature_eng.parquet_texts import NO_TEXTS, Texts, find_texts, with_texts
from feature_eng.raw import read_raw
from feature_eng.spark_errors import explained
from tests.data import make_config, raw_table, settings, write_raw

LONG = "Zürich" * 100
WORDS = ["a", "b", "", "é", "e\u0301", "\u20ac" * 170, LONG, LONG + "!", None, *"cdefghij"]
FIELDS = [
    {"name": "word", "kind": "categorical"},
    {"name": "again", "column": "word", "kind": "categorical", "min_count": 5},
    {"name": "dotted", "column": "in.ner", "kind": "categorical", "num_oov_buckets": 3}
    | {"min_count": 9},
    {"name": "sometimes", "kind": "categorical"},
    {"name": "quoted", "column": "a `b` c", "kind": "categorical"},
    {"name": "never", "kind": "categorical"},
    {"name": "length", "expr": "length(word)", "kind": "categorical"},
    {"name": "place", "kind": "categorical"},
    {"name": "number", "kind": "categorical"},
    {"name": "tags", "kind": "multi_valued", "max_length": 1},
]
OWN = {
    name: {"again": "word", "dotted": "in.ner", "quoted": "a `b` c"}.get(name, name)
    for name in ("word", "again", "dotted", "sometimes", "quoted", "never")
}


def part(seed: int, rows: int = 700) -> pa.Table:
    """Rows of a file, of several days; two of a kind are alike in nothing but their words."""
    rng = np.random.default_rng(seed)
    first = rng.permutation(WORDS[:9] * (rows // 9 + 1))[:rows]  # in a file's first row groups
    words = np.where(np.arange(rows) < rows // 2, first, rng.choice(WORDS[9:], rows))
    return pa.table(
        {
            "row": np.arange(rows) + 10_000 * seed,
            "clicked": rng.integers(0, 2, rows),
            "day": [f"2026-01-0{1 + day}" for day in rng.integers(0, 3, rows)],
            "in": [{"ner": "of a struct"}] * rows,
            "in.ner": pa.array(rng.choice(WORDS, rows).tolist(), pa.string()),
            "word": pa.array(words.tolist(), pa.string()),
            "sometimes": pa.array(rng.choice(WORDS, rows).tolist(), pa.string()),
            "a `b` c": pa.array(rng.choice(WORDS, rows).tolist(), pa.string()),
            "never": pa.nulls(rows, pa.string()),
            "number": rng.integers(0, 9, rows),
            "tags": [["x", "y"][: row % 3] for row in range(rows)],
        }
    )


def write_parts(directory: Path) -> None:
    """Files of several row groups, as different writers leave them, in a partition each."""
    renamed = part(3).rename_columns(
        [n.upper() if n == "word" else n for n in part(3).column_names]
    )
    sometimes = part(2).column_names.index("sometimes")
    unmarked = part(2).set_column(sometimes, "sometimes", part(2)["sometimes"].cast(pa.binary()))
    differences = {"column_encoding": {"word": "DELTA_BYTE_ARRAY"}, "use_dictionary": ["in.ner"]}
    large = part(4).set_column(
        part(4).column_names.index("word"), "word", part(4)["word"].cast(pa.large_string())
    )
    parts: Sequence[tuple[pa.Table, dict[str, Any]]] = [
        (part(0), {}),
        (part(1).drop_columns(["sometimes"]), {"use_dictionary": False}),
        (large, differences),
        (unmarked, {"data_page_version": "2.0", "compression": "zstd"}),
        (renamed, {"dictionary_pagesize_limit": 100, "store_schema": False}),
    ]
    for number, (table, options) in enumerate(parts):
        # As Spark escapes what a path must not hold.
        place = directory / f"place={quote(f'p +{number}#% é', safe=' é+')}"
        place.mkdir(parents=True)
        pq.write_table(table, place / "part 0.parquet", row_group_size=150, **options)


def odd_config(root: Path, out: str) -> Config:
    plain = settings(root) | {
        "raw": {"path": f"{root}/raw", "ds_column": "day"},
        "keys": ["row"],
        "fields": FIELDS,
        "features": {"path": f"{root}/{out}", "row_group_rows": 300},
    }
    return Config.model_validate(plain)


def contents(config: Config, manifest: Manifest) -> dict[str, list[dict[str, Any]]]:
    """What is in each file, by the part of its name that does not differ from build to build."""
    return {
        re.sub(r"-\w+\.parquet$", "", file.path): pq.read_table(
            f"{config.features.path}/{file.path}"
        ).to_pylist()
        for split in manifest.splits.values()
        for file in split.files
    }


@pytest.fixture
def cut_often(spark: SparkSession) -> Iterator[None]:
    """A row group comes in several batches, a file to several tasks."""
    few = {
        "spark.sql.execution.arrow.maxRecordsPerBatch": "100",
        "spark.sql.files.maxPartitionBytes": "8k",
    }
    before = {key: spark.conf.get(key) for key in few}
    for key, value in few.items():
        spark.conf.set(key, value)
    yield
    for key, value in before.items():
        spark.conf.set(key, value)


@pytest.mark.usefixtures("cut_often")
@pytest.mark.parametrize("last", ["2026-01-03", "2026-01-02"])
def test_features_are_the_same_whoever_reads(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """All rows of the files, or some of each row group."""
    write_parts(tmp_path / "raw")
    built = []
    for out in ("by workers", "by Spark"):
        config = odd_config(tmp_path, out)
        if out == "by Spark":
            monkeypatch.setattr("feature_eng.build.find_texts", lambda *_: NO_TEXTS)
        else:
            fields = unfitted_specs(config.fields)
            assert find_texts(read_raw(spark, config.raw), config, fields).columns == OWN
        manifest = build_features(spark, config, overwrite=False, ds_from="2026-01-01", ds_to=last)
        built.append((manifest, contents(config, manifest)))
    (ours, by_workers), (theirs, by_spark) = built
    assert by_workers == by_spark
    assert ours.fields == theirs.fields
    assert ours.vocabulary_fingerprint == theirs.vocabulary_fingerprint
    rows = sum(split.rows for split in ours.splits.values())
    assert (rows == 3500) == (last == "2026-01-03")
    sizes = {field.name: field.cardinality for field in ours.fields}
    assert sizes["word"] == 2 + len(WORDS) - 1, "every word, the long ones apart, and no other"
    assert sizes["never"] == 2


def test_other_tables_are_left_to_spark(spark: SparkSession, tmp_path: Path) -> None:
    root = tmp_path / "user"  # no partition, though named as a column
    raw = write_raw(root / "raw", raw_table(50))
    plain = settings(root)
    drawn = {"user": ["user"], "item": "item", "per_positive": 1, "seed": 0}

    def found(**changed: Any) -> dict[str, str]:
        config = Config.model_validate(plain | changed)
        table = read_raw(spark, config.raw)
        return find_texts(table, config, unfitted_specs(config.fields)).columns

    assert found() == {"user": "user", "device": "device"}
    assert found(negatives=drawn) == {}
    spark.read.parquet(str(raw)).write.json(f"{tmp_path}/json")
    assert found(raw={"path": f"{tmp_path}/json", "format": "json"}) == {}
    spark.read.parquet(str(raw)).write.saveAsTable("texts_of_a_table")
    try:
        assert found(raw={"table": "texts_of_a_table"}) == {}
    finally:
        spark.sql("DROP TABLE texts_of_a_table")


@pytest.mark.parametrize("kept", [1.0, 0.6, 0.01])
def test_texts_are_those_of_the_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    """Pieces of row groups, of which some rows are wanted, in batches that end anywhere."""
    monkeypatch.setattr("feature_eng.parquet_texts._PIECE_ROWS", 64)
    rng = np.random.default_rng(0)
    table = part(0, 2000)
    expected, pieces, files = [], [], {}
    for number, rows_of_group in enumerate((700, 50)):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path, row_group_size=rows_of_group)
        files[number] = f"file://{path}"
        rows = np.flatnonzero(rng.random(2000) < kept)
        place = {"_file": [number] * len(rows), "_bytes": [path.stat().st_size] * len(rows)}
        pieces.append(pa.table({**place, "_row": rows}))
        expected += table["word"].take(rows).to_pylist()
    batches = pa.concat_tables(pieces).combine_chunks().to_batches(max_chunksize=150)
    found = list(with_texts(batches, Texts({"text": "word"}, files)))
    texts = [text for rows in found for text in rows["text"].to_pylist()]
    assert [text and text[:100] for text in texts] == [text and text[:100] for text in expected]
    for rows in found:
        (text,) = rows["text"].chunks
        assert len(text.dictionary) <= max(len(text), len(set(text.to_pylist())))


@pytest.mark.parametrize("case", ["number", "list", "damaged"])
def test_a_file_whose_texts_cannot_be_read_is_named(
    spark: SparkSession, tmp_path: Path, case: str
) -> None:
    config = make_config(tmp_path)
    raw = write_raw(tmp_path / "raw", raw_table(100), files=4)
    path = raw / "part-2.parquet"
    others = {"number": (1, "int64"), "list": (["a"], "list<.*>")}
    if case in others:
        value, kind = others[case]
        table = pq.read_table(path)
        place = table.column_names.index("device")
        pq.write_table(table.set_column(place, "device", pa.array([value] * len(table))), path)
        message = rf"part-2\.parquet': column 'device' is {kind}, but a string in other files"
    else:
        column = pq.read_metadata(path).row_group(0).column(2)
        assert column.path_in_schema == "device"
        content = bytearray(path.read_bytes())
        begin = column.dictionary_page_offset
        content[begin : begin + column.total_compressed_size] = (
            b"\xff" * column.total_compressed_size
        )
        path.write_bytes(content)
        message = r"part-2\.parquet' cannot be read by Python workers: OSError: "
    with pytest.raises(PythonException) as failed:
        build_features(spark, config, overwrite=False)
    error = explained(failed.value)
    assert isinstance(error, DataError)
    assert re.search(message, str(error))
    assert not Path(config.features.path).exists()


def test_a_file_that_was_replaced_or_is_not_known_is_refused(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", raw_table(50), files=1)
    path = raw / "part-0.parquet"
    texts = Texts({"who": "user"}, {-3: f"file://{path}"})

    def rows(file: int, size: int) -> list[pa.RecordBatch]:
        return [pa.record_batch([[file], [size], [7]], ["_file", "_bytes", "_row"])]

    size = path.stat().st_size
    (found,) = with_texts(rows(-3, size), texts)
    assert found["who"].to_pylist() == [raw_table(50)["user"][7].as_py()]
    with pytest.raises(
        DataError, match=f"had {size - 1} bytes and has {size} now: it was replaced"
    ):
        list(with_texts(rows(-3, size - 1), texts))
    with pytest.raises(RunError, match="in none of the files that Spark lists"):
        list(with_texts(rows(3, size), texts))
