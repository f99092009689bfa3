"""Encoding for scoring, and the files of scores."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.cells import count_cells
from conf.errors import DataError
from conf.manifest import Manifest
from conf.schema import SPLITS, Config
from conf.vocabulary import value_ids
from feature_eng.build import build_features
from feature_eng.raw import KEY_HASH
from feature_eng.scored_files import Found, ScoreWriter, write_file
from feature_eng.scoring import (
    canonical_score_rows,
    count_duplicates,
    rows_of_day,
    score_rows,
    write_indices,
)
from feature_eng.top_rows import RANK, DueRows, best_rows
from feature_eng.vocabulary import read_vocabulary
from tests.data import DS, make_config, raw_table, write_raw
from tests.encoding import score_writer


def of_user(columns: dict[str, Any]) -> dict[str, Any]:
    """Stands for a model: half of the user's id."""
    scores = columns["user"] / 2
    return {"output": scores, "model_score": scores, "score": scores}


def in_plateaus(columns: dict[str, Any]) -> dict[str, Any]:
    """The same, calibrated to two scores."""
    found = of_user(columns)
    return found | {"score": np.where(found["output"] < 4, 0.25, 0.75)}


class Built(NamedTuple):
    """Features, and the raw table that they were built from."""

    config: Config
    manifest: Manifest
    raw: pa.Table


@pytest.fixture(scope="module")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("scoring")
    table = raw_table(400)
    write_raw(root / "raw", table)
    write_raw(root / "tonight" / f"ds={DS}", table.drop_columns("clicked"))
    write_raw(root / "tonight" / "ds=2026-01-01", table.slice(0, 10).drop_columns("clicked"))
    fields = "fields.0.num_oov_buckets=3", "fields.5.num_oov_buckets=2", "fields.0.min_count=9"
    config = make_config(root, *fields)
    return Built(config, build_features(spark, config, overwrite=False), table)


def tonight(spark: SparkSession, built: Built, ds: str = DS, kept: Sequence[str] = ()) -> DataFrame:
    raw = rows_of_day(spark, built.config.score, ds)
    return canonical_score_rows(raw, built.manifest.fields, built.manifest.keys, kept)


def writer(
    built: Built, rows: DataFrame, directory: Path, scorer: Any = of_user, **others: Any
) -> ScoreWriter:
    """Writes scores into a new directory."""
    features = built.config.features.path
    return score_writer(features, built.manifest, rows, scorer, directory, **others)


def test_the_scores_contract(spark: SparkSession, built: Built, tmp_path: Path) -> None:
    rows = tonight(spark, built, kept=["price"])
    files, found = score_rows(rows, writer(built, rows, tmp_path / f"ds={DS}"))
    assert found.rows == sum(file.rows for file in files) == 400
    scored = spark.read.parquet(str(tmp_path))
    assert [(f.name, f.dataType.simpleString()) for f in scored.schema] == [
        ("user", "string"),
        ("item", "bigint"),
        ("price", "double"),
        ("score", "double"),
        ("model_id", "string"),
        ("scored_at", "timestamp"),
        ("ds", "date"),
    ]
    served = scored.drop("ds").collect()
    assert {(r["model_id"], r["scored_at"]) for r in served} == {("model-1", datetime(2026, 1, 3))}
    ids = id_of_users(built)
    raw = built.raw.to_pylist()
    expected = [(r["user"], r["item"], r["price"]) for r in raw]
    assert sorted((r["user"], r["item"], r["price"]) for r in served) == sorted(expected)
    known = [r for r in served if r["user"] in ids]
    assert known
    assert len(known) < len(served)
    assert all(r["score"] == ids[r["user"]] / 2 for r in known)
    for file in files:
        assert file.path.startswith("part-run1-")
        assert file.bytes == (tmp_path / f"ds={DS}" / file.path).stat().st_size


def id_of_users(built: Built) -> dict[str, int]:
    table = value_ids(built.config.features.path, "user")
    return dict(zip(table["value"].to_pylist(), table["id"].to_pylist(), strict=True))


def test_what_a_day_was_like(spark: SparkSession, built: Built, tmp_path: Path) -> None:
    rows = tonight(spark, built)
    _, found = score_rows(rows, writer(built, rows, tmp_path / "scores"))
    ids, raw = id_of_users(built), built.raw.to_pylist()
    assert found.missing["device"] == sum(row["device"] is None for row in raw)
    assert found.missing["price"] == sum(row["price"] is None for row in raw)
    assert found.missing["tags"] == sum(not row["tags"] for row in raw)
    assert found.nulls == {"user": 0, "item": 0}
    assert found.unknown["user"] == sum(row["user"] not in ids for row in raw)
    assert found.values["user"] == 400
    assert found.values["tags"] == sum(len(row["tags"] or []) for row in raw)
    scores = pq.read_table(tmp_path / "scores")["score"].to_numpy()
    assert found.cells == count_cells(scores)
    assert found.frequent == dict(Counter(scores.tolist()).most_common())


def test_a_day_without_rows_has_a_file_without_rows(
    spark: SparkSession, built: Built, tmp_path: Path
) -> None:
    rows = tonight(spark, built, "2026-03-03")
    (file,), found = score_rows(rows, writer(built, rows, tmp_path / "scores"))
    assert (file.rows, found) == (0, Found.added_up([]))
    schema = pq.read_schema(tmp_path / "scores" / file.path)
    assert schema.names == ["user", "item", "score", "model_id", "scored_at"]


@pytest.mark.parametrize("by", [None, "item"])
def test_rows_that_are_lost_before_they_are_counted_are_missed(
    spark: SparkSession, built: Built, tmp_path: Path, by: str | None
) -> None:
    rows = tonight(spark, built).coalesce(1)
    whole = writer(built, rows, tmp_path / "scores", by=by, top_k=by and 3)
    encode = whole.encode
    cut = replace(whole, encode=lambda batch: encode(batch.slice(1)))
    with pytest.raises(DataError, match=r"39\d of 400 rows were scored: nothing was published"):
        score_rows(rows, cut)
    with pytest.raises(DataError, match="400 of 401 pairs were scored"):
        score_rows(rows, whole, pairs=401)


def test_top_k_rows_of_each_user(
    spark: SparkSession, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tonight(spark, built).repartition(7)
    top = writer(built, rows, tmp_path / "top", top_k=3, by="item")
    files, found = score_rows(rows, top)
    assert found.rows == 400, "all rows were scored"
    everything = writer(built, rows, tmp_path / "all")
    score_rows(rows, everything)
    of_item: dict[int, list[tuple[float, str]]] = {}
    for row in pq.read_table(tmp_path / "all").to_pylist():
        of_item.setdefault(row["item"], []).append((-row["score"], row["user"]))
    best = {(item, user) for item, rows in of_item.items() for _, user in sorted(rows)[:3]}
    kept = pq.read_table(tmp_path / "top").to_pylist()
    assert {(row["item"], row["user"]) for row in kept} == best
    assert sum(file.rows for file in files) == len(kept) == len(best)


def test_the_best_rows_are_the_models_whatever_calibration_makes_equal(
    spark: SparkSession, built: Built, tmp_path: Path
) -> None:
    rows = tonight(spark, built)
    kept = []
    for scorer in (of_user, in_plateaus):
        top = writer(built, rows, tmp_path / scorer.__name__, scorer, top_k=3, by="item")
        score_rows(rows, top)
        table = pq.read_table(tmp_path / scorer.__name__)
        assert table.column_names == ["user", "item", "score", "model_id", "scored_at"]
        kept.append({(row["item"], row["user"]) for row in table.to_pylist()})
    assert set(table["score"].to_pylist()) == {0.25, 0.75}
    assert kept[0] == kept[1]


def test_the_best_rows_do_not_depend_on_how_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    keys = {"item": rng.integers(0, 9, 500), "user": rng.integers(0, 99, 500)}
    lists = {"tags": [["a", "b"]] * 500}  # have no order
    ranks = rng.integers(0, 5, 500).astype(float)
    table = pa.table(keys | lists | {"score": ranks // 3, RANK: ranks})
    parts = [table.slice(start, 50) for start in range(0, 500, 50)]
    (at_once,) = best_rows(iter(parts), 4, "item")
    monkeypatch.setattr("feature_eng.top_rows._HELD_ROWS", 60)
    due = DueRows(4, "item")
    (in_parts,) = best_rows(due.of(iter(parts)), 4, "item")
    assert at_once.equals(in_parts)
    frame = table.to_pandas().sort_values(["item", RANK, "user"], ascending=[True, False, True])
    expected = frame.groupby("item").head(4).reset_index(drop=True).drop(columns="tags")
    assert at_once.drop_columns("tags").to_pandas().equals(expected)
    assert due.total() == len(expected)


def test_scoring_encodes_as_the_build_did(
    spark: SparkSession, built: Built, tmp_path: Path
) -> None:
    """To the last bit, unknown values in buckets of hashes and lists among them."""
    rows = tonight(spark, built)
    encoder = writer(built, rows, tmp_path / "scores").encode
    (block,) = encoder(rows.toArrow())
    names = [field.name for field in built.manifest.fields]
    trained = pa.concat_tables(
        pq.read_table(f"{built.config.features.path}/{split}") for split in SPLITS
    )
    built_as = [trained[name].to_numpy(zero_copy_only=False).tolist() for name in names]
    served_as = [block.columns[name].tolist() for name in names]
    by_row = [
        sorted(map(str, zip(*side, strict=True)))
        for side in (
            served_as,
            [[list(v) if isinstance(v, np.ndarray) else v for v in column] for column in built_as],
        )
    ]
    assert len(by_row[0]) == 400
    assert by_row[0] == by_row[1]


@pytest.mark.parametrize("held", [1 << 24, 2])
def test_duplicate_keys_are_counted(
    spark: SparkSession, tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_eng.scoring._SORTED_ROWS", held)
    keys = {"a user": ["a", "a", "b", "a", "1", None], "item.id": [*"1112", None, "1"]}
    raw = spark.createDataFrame(pa.table(keys))
    for names, expected in ((list(keys), 1), (["a user"], 2)):
        hashes = canonical_score_rows(raw, [], names).toArrow()[KEY_HASH]
        table = pa.table({"score": [0.1] * 6, KEY_HASH: hashes})
        schema = pa.schema({"score": pa.float64()})
        file = write_file(iter([table]), schema, {}, str(tmp_path), f"{expected}.parquet")
        assert file
        assert count_duplicates(str(tmp_path), [file]) == expected


def test_known_values_with_the_same_hash_are_refused(
    spark: SparkSession, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_bits(value: Column, seed: int) -> Column:
        return F.pmod(F.xxhash64(F.lit(seed), value), F.lit(4))

    monkeypatch.setattr("feature_eng.scoring.value_hash", two_bits)
    vocabulary = read_vocabulary(spark, built.config.features.path)
    with pytest.raises(DataError, match="of field 'user', or one and null, have the same"):
        write_indices(vocabulary, built.manifest.fields, str(tmp_path))


def test_a_field_may_be_optional(spark: SparkSession, built: Built, tmp_path: Path) -> None:
    raw = rows_of_day(spark, built.config.score, "2026-01-01").drop("device", "tags", "price")
    fields, keys = built.manifest.fields, built.manifest.keys
    with pytest.raises(DataError, match=r"column 'device' \(wanted by 'device'\) is not in"):
        canonical_score_rows(raw, fields, keys, optional=["tags", "price"])
    rows = canonical_score_rows(raw, fields, keys, optional=["tags", "price", "device"])
    _, found = score_rows(rows, writer(built, rows, tmp_path / "scores"))
    missing = [found.missing[name] for name in ("tags", "price", "device", "user")]
    assert missing == [10, 10, 10, 0]


def test_only_the_partition_of_the_day_is_read(spark: SparkSession, built: Built) -> None:
    # Asked of the scan itself: the printed plan cuts long filters short.
    scan = tonight(spark, built)._jdf.queryExecution().sparkPlan().collectLeaves().head()
    filters = scan.partitionFilters().toString()
    assert f">= {DS}" in filters
    assert "< 2026-01-03" in filters


def test_a_scoring_table_without_its_day_column_is_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    write_raw(tmp_path / "tonight", raw_table(10))
    with pytest.raises(DataError, match=r"column 'ds' \(wanted by 'ds_column'\)"):
        rows_of_day(spark, make_config(tmp_path).score, DS)
