"""Plain Parquet partitions: the whole directory of a day takes its name at once.

What counts is what the manifest in it names.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

from pyspark.sql import DataFrame, SparkSession

from conf import publishing, storage
from conf.errors import ConfigError, DataError, RunError
from conf.partition import (
    FILE_NAME,
    PartitionManifest,
    partition_path,
    read_partition_manifest,
    write_partition_manifest,
)
from conf.scoring import DS, ScoreConfig
from feature_eng.lake.way import Made, Publish, older

_BEGUN = "_begun"

logger = logging.getLogger(__name__)


def begin(spark: SparkSession, config: ScoreConfig, ds: str, run_id: str) -> Publish:
    """Begin to replace a partition.

    Raises:
        ConfigError: What is there is no partition of scores.
    """
    refuse_other_ways(config)
    partition = partition_path(config.path, ds)
    if not storage.has_directories(partition):
        return _begin_with_objects(partition)
    replace = publishing.replacing(partition, overwrite=True, proof=FILE_NAME)

    def publish(staging: str, manifest: PartitionManifest) -> None:
        write_partition_manifest(staging, manifest)
        replace(staging)

    return publish


def refuse_other_ways(config: ScoreConfig) -> None:
    """See that the path is of no other way, and of no other table.

    Raises:
        ConfigError: It is, as the newest day says.
    """
    if storage.exists(f"{config.path}/_delta_log"):
        raise ConfigError(
            f"score.path '{config.path}' is a Delta table, and score.format is parquet: say "
            f"format: delta, or choose another path"
        )
    fs, root = storage.filesystem(config.path)
    for partition in sorted(fs.glob(f"{root}/{DS}=*"), reverse=True):
        with suppress(DataError):  # whose it is, the day before tells
            if manifest_of(config, partition.rpartition(f"{DS}=")[2]):
                return


def _begin_with_objects(partition: str) -> Publish:
    """Of an object store, where no directory takes a name at once.

    The new files come to lie beside the old ones, one manifest takes the place of the other, and
    the files that it named go, no others: those may be of a run that is about to publish. Whenever
    a run is killed, the manifest speaks of files that are there.
    """
    begun = f"{partition}/{_BEGUN}"  # what is there is ours, though there is no manifest yet
    if not storage.exists(begun):
        publishing.refuse_existing(partition, overwrite=True, proof=FILE_NAME)
    refuse_other_run = publishing.unless_published(partition, FILE_NAME)

    def publish(staging: str, manifest: PartitionManifest) -> None:
        refuse_other_run()
        names = [file.path for file in manifest.files]
        storage.write_text(begun, "")
        storage.move_files(staging, partition, names)
        try:
            refuse_other_run()  # again: to copy them may have taken minutes
        except RunError:
            storage.remove_files(partition, names)
            raise
        old = _named(partition)
        write_partition_manifest(partition, manifest)
        storage.remove_files(partition, {_BEGUN, *old} - {*names})

    return publish


def _named(partition: str) -> list[str]:
    """Files that a partition's manifest names; where it is damaged, a vacuum finds them later."""
    with suppress(DataError):
        if manifest := read_partition_manifest(partition):
            return [file.path for file in manifest.files]
    return []


def manifest_of(config: ScoreConfig, ds: str) -> PartitionManifest | None:
    """The manifest in a day's partition.

    Raises:
        ConfigError: It speaks of another table than the configuration, or of files.
    """
    partition = partition_path(config.path, ds)
    manifest = read_partition_manifest(partition)
    if manifest and manifest.table != config.table:
        raise ConfigError(
            f"'{partition}' is of {_called(manifest.table)}, and the configuration speaks of "
            f"{_called(config.table)}: choose another score.path"
        )
    return manifest


def _called(table: str | None) -> str:
    return "plain Parquet files" if table is None else f"the table '{table}'"


def read(
    spark: SparkSession, config: ScoreConfig, ds: str, use: Callable[[DataFrame], Made]
) -> Made | None:
    """Read the files of one manifest; again, if others were put in their place meanwhile."""
    manifest = manifest_of(config, ds)
    while manifest is not None:
        try:
            return use(_frame(spark, config, manifest))
        except Exception:  # of whatever `use` makes of a file that is gone: nothing is swallowed
            earlier, manifest = manifest, manifest_of(config, ds)
            if manifest == earlier:
                raise
    return None


def _frame(spark: SparkSession, config: ScoreConfig, manifest: PartitionManifest) -> DataFrame:
    partition = partition_path(config.path, manifest.ds)
    return read_files(spark, config.path, [f"{partition}/{file.path}" for file in manifest.files])


def read_files(spark: SparkSession, table: str, files: list[str]) -> DataFrame:
    """Rows of these files of a partitioned directory, all of them or an error."""
    options = {"basePath": table, "ignoreMissingFiles": "false", "mergeSchema": "false"}
    return spark.read.options(**options).parquet(*files)


def unused(config: ScoreConfig, keep_hours: int) -> dict[str, list[str]]:
    """Files that no manifest names, in directories with a manifest; others are none of ours."""
    fs, root = storage.filesystem(config.path)
    found = {}
    for path in fs.glob(f"{root}/{DS}=*/{FILE_NAME}"):
        partition = path.rpartition("/")[0]
        ds = partition.rpartition(f"{DS}=")[2]
        try:
            counts = counting(config, ds)
        except DataError as error:
            logger.warning("%s; until then its files stay", error)
            continue
        others = [file for file in fs.find(partition) if file not in counts]
        found[ds] = [file for file in others if older(fs, file, keep_hours)]
    return found


def counting(config: ScoreConfig, ds: str) -> set[str]:
    """The manifest, and the files that it names."""
    _, partition = storage.filesystem(partition_path(config.path, ds))
    manifest = manifest_of(config, ds)
    files = manifest.files if manifest else []
    return {f"{partition}/{name}" for name in (FILE_NAME, *(file.path for file in files))}
