"""A table of Spark's catalog: Iceberg, Delta, Hive, or Spark's own.

The scores are staged as Parquet, and copied into the table in place of their day: in catalogs of
Spark's newer interface (V2: Iceberg, Delta) by an overwrite of the rows of that day, which is exact
however the table is partitioned; in Spark's own and in Hive (V1), which know no such overwrite, by
``INSERT OVERWRITE``, which replaces partitions.
"""

from collections.abc import Callable
from datetime import date

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf import publishing, storage
from conf.errors import ConfigError
from conf.partition import (
    FILE_NAME,
    PartitionManifest,
    partition_path,
    write_partition_manifest,
)
from conf.scoring import DS, ScoreConfig

# Beside the table there is a directory of manifests, which name no files.
from feature_eng.lake.parquet import counting, manifest_of, refuse_other_ways, unused
from feature_eng.lake.way import Made, Publish

__all__ = ["begin", "counting", "manifest_of", "read", "unused"]

# Spark's own tables: only the days that the rows are of, each job with files of its own until its
# end, so that two days can be published at once; Hive's: allow this.
_DYNAMIC = {
    "spark.sql.sources.partitionOverwriteMode": "dynamic",
    "hive.exec.dynamic.partition.mode": "nonstrict",
}
_IS_V1 = "_LEGACY_ERROR_TEMP_1012"  # "Cannot write into v1 table"


def begin(spark: SparkSession, config: ScoreConfig, ds: str, run_id: str) -> Publish:
    """Begin to replace a day in the table.

    Raises:
        ConfigError: The records beside it are of another table, or files are there.
    """
    refuse_other_ways(config)
    directory = partition_path(config.path, ds)
    refuse_other_run = publishing.unless_published(directory, FILE_NAME)

    def publish(staging: str, manifest: PartitionManifest) -> None:
        refuse_other_run()
        scores = spark.read.parquet(*[f"{staging}/{file.path}" for file in manifest.files])
        scores = scores.withColumn(DS, F.lit(ds).cast("date"))
        _create(spark, str(config.table), scores)
        # If this run dies before the end, no manifest speaks of rows that it may have replaced.
        storage.make_directory(directory)
        record = f"{directory}/{FILE_NAME}"
        before = storage.read_text(record) if storage.exists(record) else None
        if before is not None:
            storage.remove(record)
        try:
            _overwrite(spark, str(config.table), ds, scores, manifest.rows)
        except (AnalysisException, ConfigError):  # refused before it touched a row
            if before is not None:
                storage.write_text(record, before)
            raise
        rows_in_table: dict[str, object] = {"table": config.table, "files": []}
        write_partition_manifest(directory, manifest.model_copy(update=rows_in_table))

    return publish


def _create(spark: SparkSession, table: str, scores: DataFrame) -> None:
    """Create the table of these columns, if it is not there."""
    columns = scores.schema.toDDL()
    try:
        spark.sql(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) PARTITIONED BY ({DS})")
    except AnalysisException:
        if not spark.catalog.tableExists(table):
            raise
        # Another day's run created it in the same moment.


def _overwrite(spark: SparkSession, table: str, ds: str, scores: DataFrame, rows: int) -> None:
    """Put rows of a day in place of those that the table has of it, also where there are none."""
    try:
        scores.writeTo(table).overwrite(F.col(DS) == F.lit(date.fromisoformat(ds)))
    except AnalysisException as error:
        if error.getCondition() != _IS_V1:
            raise
        _overwrite_partition(spark, table, ds, scores, rows)


def _overwrite_partition(
    spark: SparkSession, table: str, ds: str, scores: DataFrame, rows: int
) -> None:
    """The same where a table can only replace whole partitions.

    Raises:
        ConfigError: Its partitions are not the days: others would go too, or rows of this one stay.
    """
    partitioned = [column.name for column in spark.catalog.listColumns(table) if column.isPartition]
    if [name.lower() for name in partitioned] != [DS]:
        raise ConfigError(
            f"the table '{table}' is partitioned by {partitioned}, scores are by ['{DS}']: nothing "
            f"was published; choose another score.table"
        )
    for key, value in _DYNAMIC.items():
        spark.conf.set(key, value)
    partition = ""
    if not rows:  # which are of no day
        partition, scores = f"PARTITION ({DS} = '{ds}')", scores.drop(DS)
    spark.sql(
        f"INSERT OVERWRITE TABLE {table} {partition} BY NAME SELECT * FROM {{scores}}",
        scores=scores,
    )


def read(
    spark: SparkSession, config: ScoreConfig, ds: str, use: Callable[[DataFrame], Made]
) -> Made | None:
    """Read a day's rows, as the table gives them."""
    if not spark.catalog.tableExists(str(config.table)):
        return None
    return use(spark.table(str(config.table)).where(F.col(DS) == ds))
