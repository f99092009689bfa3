"""Plain Parquet partitions: the whole directory of a day takes its name at once.

What counts is what the manifest in it names.
"""

from collections.abc import Callable

from pyspark.sql import DataFrame, SparkSession

from conf import storage
from conf.errors import ConfigError
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


def begin(spark: SparkSession, config: ScoreConfig, ds: str, run_id: str) -> Publish:
    """Begin to replace a partition.

    Raises:
        ConfigError: What is there is no partition of scores.
    """
    if storage.exists(f"{config.path}/_delta_log"):
        raise ConfigError(
            f"score.path '{config.path}' is a Delta table, and score.format is parquet: say "
            f"format: delta, or choose another path"
        )
    partition = partition_path(config.path, ds)
    if not storage.has_directories(partition):
        return _begin_with_objects(partition)
    replace = storage.replacing(partition, overwrite=True, proof=FILE_NAME)

    def publish(staging: str, manifest: PartitionManifest) -> None:
        write_partition_manifest(staging, manifest)
        replace(staging)

    return publish


def _begin_with_objects(partition: str) -> Publish:
    """Of an object store, where no directory takes a name at once.

    The new files come to lie beside the old ones, one manifest takes the place of the other, and
    the old files go: whenever the run is killed, the manifest speaks of files that are there.
    """
    begun = f"{partition}/{_BEGUN}"  # what is there is ours, though there is no manifest yet
    if not storage.exists(begun):
        storage.refuse_existing(partition, overwrite=True, proof=FILE_NAME)
    refuse_other_run = storage.unless_published(partition, FILE_NAME)

    def publish(staging: str, manifest: PartitionManifest) -> None:
        refuse_other_run()
        names = [file.path for file in manifest.files]
        storage.write_text(begun, "")
        storage.move_files(staging, partition, names)
        write_partition_manifest(partition, manifest)
        storage.remove_others(partition, {FILE_NAME, *names})

    return publish


def manifest_of(config: ScoreConfig, ds: str) -> PartitionManifest | None:
    """The manifest in a day's partition."""
    return read_partition_manifest(partition_path(config.path, ds))


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
        counts = counting(config, ds)
        found[ds] = [file for file in fs.find(partition) if file not in counts]
    return {ds: [file for file in files if older(file, keep_hours)] for ds, files in found.items()}


def counting(config: ScoreConfig, ds: str) -> set[str]:
    """The manifest, and the files that it names."""
    _, partition = storage.filesystem(partition_path(config.path, ds))
    manifest = manifest_of(config, ds)
    files = manifest.files if manifest else []
    return {f"{partition}/{name}" for name in (FILE_NAME, *(file.path for file in files))}
