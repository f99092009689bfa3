"""Publication of scores as plain Parquet, in a Delta table, and in a table of Spark's catalog."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from conf.errors import ConfigError, RunError
from conf.partition import write_partition_manifest
from conf.scoring import ScoreConfig
from feature_eng.lake import manifest_of, publication, read_partition
from feature_eng.lake.vacuum import vacuum
from tests.scores import Rows, commit, manifest_for, publish, score_config, write_scores

MONDAY, TUESDAY = "2026-01-05", "2026-01-06"
NOTHING: Rows = []


def as_pairs(table: pa.Table) -> list[tuple[int, float]]:
    return sorted(zip(table["user"].to_pylist(), table["score"].to_pylist(), strict=True))


def by_pyarrow(config: ScoreConfig, ds: str) -> list[tuple[int, float]]:
    """Any reader of hive partitions."""
    table = pq.read_table(config.path, filters=[("ds", "=", ds)])
    return as_pairs(table)


def by_log(config: ScoreConfig, ds: str, version: int | None = None) -> list[tuple[int, float]]:
    """Any reader of Delta tables."""
    table = DeltaTable(config.path, version)
    files = table.file_uris(partition_filters=[("ds", "=", ds)])
    return as_pairs(pa.concat_tables([pq.read_table(file, partitioning=None) for file in files]))


def by_sql(spark: SparkSession, config: ScoreConfig, ds: str) -> list[tuple[int, float]]:
    rows = spark.sql(f"SELECT user, score FROM {config.table} WHERE ds = '{ds}'").collect()
    return sorted((row.user, row.score) for row in rows)


@pytest.fixture
def catalog_table(spark: SparkSession) -> object:
    yield "default.nightly_scores"
    spark.sql("DROP TABLE IF EXISTS default.nightly_scores")


@pytest.mark.parametrize("way", ["parquet", "delta", "catalog"])
def test_a_day_is_replaced_whole_or_not_at_all(
    spark: SparkSession, tmp_path: Path, catalog_table: str, way: str
) -> None:
    lake = tmp_path / "scores"
    how = {"table": catalog_table} if way == "catalog" else {"format": way}
    config = score_config(lake, **how)
    outside: Callable[[str], list[tuple[int, float]]] = {
        "parquet": lambda ds: by_pyarrow(config, ds),
        "delta": lambda ds: by_log(config, ds),
        "catalog": lambda ds: by_sql(spark, config, ds),
    }[way]

    def ours(ds: str) -> list[tuple[int, float]] | None:
        return read_partition(
            spark, config, ds, lambda frame: sorted((r.user, r.score) for r in frame.collect())
        )

    assert ours(MONDAY) is None
    assert manifest_of(config, MONDAY) is None
    publish(spark, config, TUESDAY, "run-0", [(9, 0.9)])
    with publication(spark, config, MONDAY, "run-1") as published:
        write_scores(published.directory, "run-1", [(1, 0.7)])  # by a task that was tried again
        first = commit(published, MONDAY, "run-1", [(1, 0.5), (2, 0.25)], [(3, 0.1)])
    assert outside(MONDAY) == ours(MONDAY) == [(1, 0.5), (2, 0.25), (3, 0.1)]
    found = manifest_of(config, MONDAY)
    in_table = {"files": [], "table": catalog_table}
    assert found == (first if way != "catalog" else first.model_copy(update=in_table))

    with publication(spark, config, MONDAY, "run-2") as published:
        assert Path(published.directory).is_absolute()
        assert Path(published.directory).name.startswith(".")
        write_scores(published.directory, "run-2", [(1, 0.9)])
    with publication(spark, config, MONDAY, "run-3") as published:
        name = write_scores(published.directory, "run-3", [(1, 0.9)])
        manifest = manifest_for(published.directory, [name], MONDAY, "run-3")
        longer = manifest.files[0].model_copy(update={"bytes": 1_000_000})
        with pytest.raises(RunError, match="should hold 1000000 bytes"):
            published.commit(manifest.model_copy(update={"files": [longer]}))
    assert manifest_of(config, MONDAY) == found
    assert outside(MONDAY) == [(1, 0.5), (2, 0.25), (3, 0.1)]

    with publication(spark, config, MONDAY, "run-4") as published:
        with (
            pytest.raises(RunError, match=rf"another run \(process {os.getpid()} .* is writing"),
            publication(spark, config, MONDAY, "run-5"),
        ):
            pytest.fail("must not get here")
        commit(published, MONDAY, "run-4", [(4, 0.4)])
    assert outside(MONDAY) == ours(MONDAY) == [(4, 0.4)]
    publish(spark, config, MONDAY, "run-6", NOTHING)
    assert outside(MONDAY) == []
    assert ours(MONDAY) == []
    emptied = manifest_of(config, MONDAY)
    assert emptied
    assert (emptied.run_id, emptied.rows) == ("run-6", 0)
    assert outside(TUESDAY) == ours(TUESDAY) == [(9, 0.9)]
    hidden = [path.name for path in lake.iterdir() if path.name.startswith(".")]
    assert hidden == []


@pytest.mark.parametrize("way", ["parquet", "delta", "catalog"])
def test_days_are_published_at_once(
    spark: SparkSession, tmp_path: Path, catalog_table: str, way: str
) -> None:
    how = {"table": catalog_table} if way == "catalog" else {"format": way}
    config = score_config(tmp_path / "scores", **how)
    days = [MONDAY, TUESDAY, "2026-01-07", "2026-01-08"]
    for turn in range(2):  # the first makes the table
        start = threading.Barrier(len(days))

        def run(ds: str, turn: int = turn, start: threading.Barrier = start) -> None:
            with publication(spark, config, ds, f"{ds}-{turn}") as published:
                start.wait()
                commit(published, ds, f"{ds}-{turn}", [(int(ds[-1]), turn)], [(0, turn)])

        with ThreadPoolExecutor(len(days)) as pool:
            list(pool.map(run, days))
        for ds in days:
            rows = read_partition(spark, config, ds, lambda frame: frame.collect())
            assert rows
            assert sorted((r.user, r.score, str(r.ds)) for r in rows) == [
                (0, turn, ds),
                (int(ds[-1]), turn, ds),
            ]


def test_a_reader_of_parquet_never_meets_a_mix(spark: SparkSession, tmp_path: Path) -> None:
    config = score_config(tmp_path)
    publish(spark, config, MONDAY, "old", [(1, 0.1)], [(2, 0.1)])
    called = []

    def use(frame: object) -> list[tuple[int, float]]:
        called.append(1)
        if len(called) == 1:
            publish(spark, config, MONDAY, "new", [(1, 0.2)], [(2, 0.2)], [(3, 0.2)])
        return sorted((row.user, row.score) for row in frame.collect())  # type: ignore[attr-defined]

    assert read_partition(spark, config, MONDAY, use) == [(1, 0.2), (2, 0.2), (3, 0.2)]
    assert len(called) == 2

    def fail(frame: object) -> None:
        called.append(1)
        raise ValueError("of the reader's own")

    with pytest.raises(ValueError, match="of the reader's own"):
        read_partition(spark, config, MONDAY, fail)
    assert len(called) == 3


def test_ways_do_not_mix(spark: SparkSession, tmp_path: Path) -> None:
    files = publish(spark, score_config(tmp_path / "p"), MONDAY, "run", [(1, 0.1)])
    publish(spark, score_config(tmp_path / "d", format="delta"), MONDAY, "run", [(1, 0.1)])
    record = files.model_copy(update={"files": [], "table": "db.a"})
    (tmp_path / f"t/ds={MONDAY}").mkdir(parents=True)
    write_partition_manifest(f"{tmp_path}/t/ds={MONDAY}", record)
    for config, message in (
        (score_config(tmp_path / "d"), "is a Delta table, and score.format is parquet"),
        (score_config(tmp_path / "d", table="db.a"), "is a Delta table"),
        (score_config(tmp_path / "p", format="delta"), "holds plain Parquet partitions"),
        (score_config(tmp_path / "p", table="db.a"), "is of plain Parquet files, and .* 'db.a'"),
        (score_config(tmp_path / "t"), "is of the table 'db.a', and .* plain Parquet files"),
        (score_config(tmp_path / "t", table="db.b"), "is of the table 'db.a', and .* 'db.b'"),
    ):
        with (
            pytest.raises(ConfigError, match=message),
            publication(spark, config, TUESDAY, "run"),
        ):
            pytest.fail("must not get here")
        if "is of" in message:
            for use in (lambda c: manifest_of(c, MONDAY), lambda c: vacuum(c, 0, dry_run=False)):
                with pytest.raises(ConfigError, match=message):
                    use(config)
    assert manifest_of(score_config(tmp_path / "p"), MONDAY) == files
    assert (tmp_path / f"p/ds={MONDAY}" / files.files[0].path).exists()
    assert manifest_of(score_config(tmp_path / "t", table="db.a"), MONDAY) == record


@pytest.mark.parametrize("partitioned", ["", "PARTITIONED BY (ds, user)"])
def test_a_table_whose_partitions_are_not_the_days_is_refused(
    spark: SparkSession, tmp_path: Path, catalog_table: str, partitioned: str
) -> None:
    """It would lose other days, or keep rows of this one."""
    spark.sql(
        f"CREATE TABLE {catalog_table} (user BIGINT, score DOUBLE, scored_at TIMESTAMP, ds DATE) "
        f"{partitioned}"
    )
    config = score_config(tmp_path, table=catalog_table)
    with pytest.raises(ConfigError, match=r"is partitioned by .*, scores are by"):
        publish(spark, config, MONDAY, "run", [(1, 0.5)])
    assert by_sql(spark, config, MONDAY) == []
    assert manifest_of(config, MONDAY) is None


@pytest.fixture
def newer_catalog(spark: SparkSession) -> str:
    """A table of the only catalog in Spark with the interface that Iceberg and Delta have."""
    spark._jvm.System.setProperty("derby.stream.error.file", "/dev/null")
    for key, value in {
        "": "org.apache.spark.sql.execution.datasources.v2.jdbc.JDBCTableCatalog",
        ".url": "jdbc:derby:memory:lake;create=true",
        ".driver": "org.apache.derby.jdbc.EmbeddedDriver",
    }.items():
        spark.conf.set(f"spark.sql.catalog.newer{key}", value)
    spark.sql(
        "CREATE TABLE newer.app.scores (user LONG, score DOUBLE, scored_at TIMESTAMP, ds DATE)"
    )
    return "newer.app.scores"


def test_newer_catalogs_are_to_overwrite_the_rows_of_the_day(
    spark: SparkSession, tmp_path: Path, newer_catalog: str
) -> None:
    """Not the partitions of the rows that there are, of which an empty day has none.

    This catalog cannot; what it says it cannot is what it was asked for.
    """
    config = score_config(tmp_path, table=newer_catalog)
    with pytest.raises(AnalysisException, match="does not support overwrite by filter"):
        publish(spark, config, MONDAY, "run", NOTHING)
    assert manifest_of(config, MONDAY) is None
