"""Encoding for scoring and the publication of a partition."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.errors import DataError
from conf.manifest import Manifest
from conf.schema import SPLITS, Config
from feature_eng.build import build_features
from feature_eng.scoring import canonical_score_rows, publish_scores, rows_of_day
from feature_eng.vocabulary import read_vocabulary
from tests.data import DS, make_config, raw_table, write_raw
from tests.encoding import encode


def of_user(columns: dict[str, Any]) -> Any:
    """Stands for a model: half of the user's id."""
    return columns["user"] / 2


@pytest.fixture(scope="module")
def built(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Manifest, pa.Table]:
    root = tmp_path_factory.mktemp("scoring")
    table = raw_table(400)
    write_raw(root / "raw", table)
    write_raw(root / "tonight" / f"ds={DS}", table.drop_columns("clicked"))
    write_raw(root / "tonight" / "ds=2026-01-01", table.slice(0, 10).drop_columns("clicked"))
    config = make_config(root)
    return config, build_features(spark, config, overwrite=False), table


def publish(
    spark: SparkSession, built: tuple[Config, Manifest, pa.Table], raw: DataFrame, partition: str
) -> int:
    config, manifest, _ = built
    vocabulary = read_vocabulary(spark, config.features.path)
    return publish_scores(raw, manifest, vocabulary, of_user, "model-1", partition, "name: x\n")


def test_the_scores_contract(
    spark: SparkSession, built: tuple[Config, Manifest, pa.Table], tmp_path: Path
) -> None:
    config, _, raw = built
    for ds, rows in (("2026-01-01", 10), (DS, 400)):
        tonight = rows_of_day(spark, config.score, ds)
        assert publish(spark, built, tonight, f"{tmp_path}/ds={ds}") == rows
    found = spark.read.parquet(str(tmp_path))
    assert [(f.name, f.dataType.simpleString()) for f in found.schema] == [
        ("user", "string"),
        ("item", "bigint"),
        ("score", "double"),
        ("model_id", "string"),
        ("scored_at", "timestamp"),
        ("ds", "date"),
    ]
    rows = found.where(f"ds = '{DS}'").collect()
    vocabulary = read_vocabulary(spark, config.features.path).entries.where("field = 'user'")
    id_of = {row["value"]: row["id"] for row in vocabulary.collect()}
    expected = [(r["user"], r["item"], id_of.get(r["user"], 1) / 2) for r in raw.to_pylist()]
    assert sorted((r["user"], r["item"], r["score"]) for r in rows) == sorted(expected)
    assert {row["model_id"] for row in rows} == {"model-1"}
    assert len({row["scored_at"] for row in rows}) == 1
    hidden = [path.name for path in (tmp_path / f"ds={DS}").glob("[._]*") if path.suffix != ".crc"]
    assert sorted(hidden) == ["_SUCCESS", "_config.yaml"]
    assert (tmp_path / f"ds={DS}/_config.yaml").read_text() == "name: x\n"


def test_a_partition_is_replaced_whole_or_not_at_all(
    spark: SparkSession, built: tuple[Config, Manifest, pa.Table], tmp_path: Path
) -> None:
    tonight, partition = rows_of_day(spark, built[0].score, DS), f"{tmp_path}/ds={DS}"
    publish(spark, built, tonight, partition)
    with pytest.raises(DataError, match="there are no rows for"):
        publish(spark, built, tonight.where("false"), partition)
    with pytest.raises(PySparkException):
        publish(
            spark, built, tonight.withColumn("user", F.expr("string(raise_error('no'))")), partition
        )
    assert pq.read_table(partition).num_rows == 400
    publish(spark, built, tonight.where("item < 2"), partition)
    assert set(pq.read_table(partition)["item"].to_pylist()) == {0, 1}
    assert [path.name for path in tmp_path.iterdir()] == [f"ds={DS}"]


def test_scoring_encodes_as_the_build_did(
    spark: SparkSession, built: tuple[Config, Manifest, pa.Table], tmp_path: Path
) -> None:
    config, manifest, _ = built
    raw = canonical_score_rows(rows_of_day(spark, config.score, DS), manifest.fields, manifest.keys)
    vocabulary = read_vocabulary(spark, config.features.path)
    names = [field.name for field in manifest.fields]
    served = encode(raw, manifest.fields, vocabulary, tmp_path)
    trained = pa.concat_tables(
        pq.read_table(f"{config.features.path}/{split}") for split in SPLITS
    ).to_pylist()
    assert len(served) == len(trained) == 400
    as_text = [sorted(str([row[n] for n in names]) for row in rows) for rows in (served, trained)]
    assert as_text[0] == as_text[1]


def test_a_scoring_table_without_its_day_column_is_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    write_raw(tmp_path / "tonight", raw_table(10))
    with pytest.raises(DataError, match=r"column 'ds' \(wanted by 'ds_column'\)"):
        rows_of_day(spark, make_config(tmp_path).score, DS)
