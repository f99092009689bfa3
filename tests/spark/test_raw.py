"""Raw tables of every format, and days of them."""

from functools import reduce
from pathlib import Path

import pytest
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.errors import ConfigError, DataError
from conf.raw import RawConfig
from conf.schema import Config, SparkConfig
from feature_eng import spark_errors
from feature_eng.build import build_features
from feature_eng.canonical import canonical_rows
from feature_eng.raw import KEYS, read_raw, rows_of_days
from jobs.session import spark_session
from tests.data import settings


@pytest.fixture
def rows(spark: SparkSession) -> DataFrame:
    return spark.range(300).selectExpr(
        "concat('r', id) as row",  # a text, for csv makes another integer of a long
        "id",
        "concat('u', id % 17) as user",
        "if(id % 5 = 0, null, id % 7) as n",
        "concat_ws('|', id % 3, id % 4) as tags",
        "cast(id % 2 as int) as y",
        "date_add(date'2026-01-01', cast(id % 3 as int)) as ds",
    )


def config(root: Path, raw: RawConfig) -> Config:
    plain = settings(root) | {
        "raw": raw.model_dump(),
        "keys": ["row"],
        "label": {"column": "y"},
        "fields": [
            {"name": "user", "kind": "categorical"},
            {"name": "n", "kind": "numeric"},
            {"name": "tags", "kind": "multi_valued", "max_length": 2, "delimiter": "|"},
        ],
    }
    return Config.model_validate(plain)


def test_rows_are_the_same_from_every_format(
    spark: SparkSession, rows: DataFrame, tmp_path: Path
) -> None:
    for kind in ("parquet", "json", "orc"):
        rows.write.format(kind).save(f"{tmp_path}/{kind}")
    rows.write.csv(f"{tmp_path}/csv", header=True)
    rows.write.saveAsTable("raw_rows", path=f"{tmp_path}/table")
    tables = {
        kind: RawConfig(path=f"{tmp_path}/{kind}", format=kind)
        for kind in ("parquet", "json", "orc", "csv")
    }
    options = {"header": "true", "inferSchema": "true"}
    tables["csv"] = tables["csv"].model_copy(update={"options": options})
    tables["table"] = RawConfig(table="raw_rows")
    try:
        found = {
            kind: sorted(
                canonical_rows(read_raw(spark, raw), config(tmp_path, raw)).collect(),
                key=lambda row: row[KEYS],
            )
            for kind, raw in tables.items()
        }
    finally:
        spark.sql("drop table if exists raw_rows")
    assert len(found["parquet"]) == 300
    for kind, canonical in found.items():
        assert canonical == found["parquet"], kind


@pytest.mark.parametrize(
    ("kind", "damaged"), [("csv", "id,n\n1,2\n3\n"), ("json", '{"id": 1, "n": 2}\n{"id": 3, "n"')]
)
def test_text_that_does_not_parse_is_refused(
    spark: SparkSession, tmp_path: Path, kind: str, damaged: str
) -> None:
    """Unless the options ask for nulls."""
    path = tmp_path / f"raw.{kind}"
    path.write_text(damaged)
    options = {"header": "true"} if kind == "csv" else {}
    raw = RawConfig(path=str(path), format=kind, options=options)
    with pytest.raises((DataError, PySparkException, Py4JError)) as failed:
        read_raw(spark, raw).collect()
    error = failed.value
    if not isinstance(error, DataError):
        error = spark_errors.explained(error)
    assert isinstance(error, DataError)
    assert path.name in str(error)
    permissive = raw.model_copy(update={"options": options | {"MODE": "PERMISSIVE"}})
    assert read_raw(spark, permissive).count() == 2


def test_a_pattern_of_paths_is_read(spark: SparkSession, rows: DataFrame, tmp_path: Path) -> None:
    """Markers of directories are no files of rows; files of no bytes are refused below it too."""
    for month in ("2026-01", "2026-02", "2025-12"):
        rows.limit(5).coalesce(1).write.parquet(f"{tmp_path}/lake/{month}")
        (tmp_path / f"lake/{month}/part_$folder$").touch()
    raw = RawConfig(path=f"{tmp_path}/lake/2026-*")
    assert rows_of_days(read_raw(spark, raw), raw, None, None).count() == 10
    (tmp_path / "lake/2026-02/part-9.parquet").touch()
    with pytest.raises(DataError, match=r"2026-02/part-9\.parquet' has 0 bytes"):
        rows_of_days(read_raw(spark, raw), raw, None, None)
    nothing = RawConfig(path=f"{tmp_path}/lake/2027-*")
    with pytest.raises(DataError, match=r"2027-\*' cannot be read"):
        read_raw(spark, nothing)


def test_days_are_picked_from_partitions_and_from_columns(
    spark: SparkSession, rows: DataFrame, tmp_path: Path
) -> None:
    rows.write.partitionBy("ds").parquet(f"{tmp_path}/parts")
    rows.selectExpr("id", "string(ds) as day").write.parquet(f"{tmp_path}/plain")
    days = {
        ("2026-01-02", "2026-01-02"): {1},
        ("2026-01-02", None): {1, 2},
        (None, "2026-01-02"): {0, 1},
        (None, None): {0, 1, 2},
        ("2027-01-01", None): set(),
    }
    for raw in (
        RawConfig(path=f"{tmp_path}/parts"),
        RawConfig(path=f"{tmp_path}/plain", ds_column="day"),
    ):
        every = read_raw(spark, raw)
        for (first, last), expected in days.items():
            found = rows_of_days(every, raw, first, last).collect()
            assert {row["id"] % 3 for row in found} == expected


def test_days_of_any_type_are_picked_or_refused(spark: SparkSession, tmp_path: Path) -> None:
    """Times by their day, to its last second."""
    times = ["2025-12-31 23:59:59", "2026-01-01 00:00:00", "2026-01-02 23:59:59.5", "2026-01-03"]
    table = spark.createDataFrame(list(enumerate(times)), "id int, at string").selectExpr(
        "id",
        "at as text",
        "timestamp(at) as time",
        "cast(at as timestamp_ntz) as plain_time",
        "date(at) as day",
        "int(date_format(at, 'yyyyMMdd')) as number",
        "date_format(at, 'yyyyMMdd') as digits",
    )
    table.write.parquet(f"{tmp_path}/raw")

    def picked(column: str, first: str | None, last: str | None) -> DataFrame:
        raw = RawConfig(path=f"{tmp_path}/raw", ds_column=column)
        found = rows_of_days(read_raw(spark, raw), raw, first, last)
        return found.select("id", F.lit(f"{column} {first} {last}").alias("days"))

    wanted = [("2026-01-01", "2026-01-02", {1, 2}), (None, "2025-12-31", {0})]
    wanted += [("2026-01-03", None, {3})]
    columns = ("text", "time", "plain_time", "day")
    frames = [picked(column, *days) for column in columns for *days, _ in wanted]
    found = [tuple(row) for row in reduce(DataFrame.union, frames).collect()]
    assert set(found) == {
        (row, f"{column} {first} {last}")
        for column in columns
        for first, last, expected in wanted
        for row in expected
    }
    assert picked("number", None, None).count() == 4
    with pytest.raises(DataError, match="'number' is int, expected a date, a timestamp or text"):
        picked("number", "2026-01-01", None)
    with pytest.raises(PySparkException) as failed:
        picked("digits", None, "2026-01-01").collect()
    error = spark_errors.explained(failed.value)
    assert isinstance(error, DataError)
    assert "/raw' holds '20251231', expected YYYY-MM-DD" in str(error)


def test_partitions_of_text_are_picked_without_reading_the_others(
    spark: SparkSession, rows: DataFrame, tmp_path: Path
) -> None:
    """One partition is named by no day, so that Spark takes all names as text."""
    rows.write.partitionBy("ds").parquet(f"{tmp_path}/parts")
    (tmp_path / "parts/ds=2026-01-03").rename(tmp_path / "parts/ds=backfill")
    for damaged in (tmp_path / "parts/ds=backfill").glob("*.parquet"):
        damaged.write_bytes(b"not parquet")
    raw = RawConfig(path=f"{tmp_path}/parts")
    found = rows_of_days(read_raw(spark, raw), raw, "2026-01-02", "2026-01-02")
    assert dict(found.dtypes)["ds"] == "string"
    assert {row["id"] % 3 for row in found.collect()} == {1}


def test_only_the_files_of_the_days_asked_for_are_read(
    spark: SparkSession, rows: DataFrame, tmp_path: Path
) -> None:
    rows.write.partitionBy("ds").parquet(f"{tmp_path}/parts")
    for damaged in (tmp_path / "parts" / "ds=2026-01-03").glob("*.parquet"):
        damaged.write_bytes(b"not parquet")
    raw = RawConfig(path=f"{tmp_path}/parts")
    assert rows_of_days(read_raw(spark, raw), raw, None, "2026-01-02").count() == 200
    # Those that are asked for end the run, also where the site leaves out what cannot be read.
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", "true")
    session = spark_session(SparkConfig())
    with pytest.raises((PySparkException, Py4JError)) as failed:
        rows_of_days(read_raw(session, raw), raw, None, None).select("id").collect()
    assert isinstance(spark_errors.explained(failed.value), DataError)


def test_a_build_of_some_days_says_so(spark: SparkSession, rows: DataFrame, tmp_path: Path) -> None:
    rows.write.partitionBy("ds").parquet(f"{tmp_path}/parts")
    run = config(tmp_path, RawConfig(path=f"{tmp_path}/parts"))
    days = {"ds_from": "2026-01-02", "ds_to": "2026-01-03"}
    source = build_features(spark, run, overwrite=False, **days).source
    assert source.model_dump() == {"name": f"{tmp_path}/parts", "rows": 200} | days
    with pytest.raises(DataError, match="is empty"):
        build_features(spark, run, overwrite=True, ds_from="2027-01-01")


def test_a_table_that_is_not_there_is_named(spark: SparkSession) -> None:
    with pytest.raises(ConfigError, match="raw table 'table nowhere' does not exist"):
        read_raw(spark, RawConfig(table="nowhere"))


def test_a_format_that_spark_does_not_know_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: .*nonsense"):
        read_raw(spark, RawConfig(path=str(tmp_path), format="nonsense"))
