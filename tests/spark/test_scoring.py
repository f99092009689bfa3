"""Encoding for scoring and the publication of a partition."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.errors import DataError
from conf.schema import SPLITS
from feature_eng.build import build_features
from feature_eng.scoring import encode_rows, publish_scores, rows_of_day, score_rows
from feature_eng.vocabulary import read_vocabulary
from tests.data import DS, make_config, raw_table, write_raw


def halves(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    """Stands for a model: half of the user's id."""
    for batch in batches:
        score = pa.array([user / 2 for user in batch.column("user").to_pylist()])
        yield pa.RecordBatch.from_arrays([batch.column("_keys"), score], ["_keys", "score"])


@pytest.fixture
def scores(spark: SparkSession) -> DataFrame:
    rows = [(f"u{i}", i, 10 * i) for i in range(5)]
    encoded = spark.createDataFrame(rows, "name string, user int, item int").select(
        F.struct("name", "item").alias("_keys"), "user"
    )
    return score_rows(encoded, halves, "model-1")


def test_the_scores_contract(scores: DataFrame, tmp_path: Path) -> None:
    table = tmp_path / "scores"
    for day in ("2026-01-01", "2026-01-02"):
        published = publish_scores(
            scores, f"{table}/ds={day}", expected_rows=5, config_yaml="name: x\n"
        )
        assert published == 5
    found = scores.sparkSession.read.parquet(str(table))
    assert [(f.name, f.dataType.simpleString()) for f in found.schema] == [
        ("name", "string"),
        ("item", "int"),
        ("score", "double"),
        ("model_id", "string"),
        ("scored_at", "timestamp"),
        ("ds", "date"),
    ]
    rows = found.where("ds = '2026-01-02'").orderBy("item").collect()
    assert [(r["name"], r["item"], r["score"]) for r in rows] == [
        (f"u{i}", 10 * i, i / 2) for i in range(5)
    ]
    assert {row["model_id"] for row in rows} == {"model-1"}
    assert len({row["scored_at"] for row in rows}) == 1
    assert (table / "ds=2026-01-02/_config.yaml").read_text() == "name: x\n"


def test_a_partition_is_replaced_whole_or_not_at_all(scores: DataFrame, tmp_path: Path) -> None:
    partition = f"{tmp_path}/ds={DS}"
    publish_scores(scores, partition, expected_rows=5, config_yaml="")
    with pytest.raises(DataError, match="5 scores of 6 rows came out"):
        publish_scores(scores, partition, expected_rows=6, config_yaml="")
    publish_scores(scores.where("item > 20"), partition, expected_rows=2, config_yaml="")
    assert sorted(pq.read_table(partition)["item"].to_pylist()) == [30, 40]
    assert [path.name for path in tmp_path.iterdir()] == [f"ds={DS}"]


def test_scoring_encodes_as_the_build_did(spark: SparkSession, tmp_path: Path) -> None:
    table = raw_table(400)
    write_raw(tmp_path / "raw", table)
    write_raw(tmp_path / "tonight" / f"ds={DS}", table.drop_columns("clicked"))
    write_raw(tmp_path / "tonight" / "ds=2026-01-01", table.slice(0, 10).drop_columns("clicked"))
    config = make_config(tmp_path)
    manifest = build_features(spark, config, overwrite=False)
    raw = rows_of_day(spark, config.score, DS)
    assert raw.count() == 400
    served = encode_rows(raw, manifest, read_vocabulary(spark, config.features.path))
    names = [field.name for field in manifest.fields]
    trained = spark.read.parquet(*[f"{config.features.path}/{split}" for split in SPLITS])
    assert served.select(names).exceptAll(trained.select(names)).count() == 0
    assert trained.select(names).exceptAll(served.select(names)).count() == 0


def test_a_scoring_table_without_its_day_column_is_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    write_raw(tmp_path / "tonight", raw_table(10))
    with pytest.raises(DataError, match=r"column 'ds' \(wanted by 'ds_column'\)"):
        rows_of_day(spark, make_config(tmp_path).score, DS)
