"""The lake of scores: how a day's partition is published, and what of it counts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from conf import publishing, storage
from conf.partition import PartitionManifest, partition_path
from conf.scoring import ScoreConfig
from feature_eng.lake import catalog, delta, parquet
from feature_eng.lake.way import Made, Way, keep_named_files


@dataclass(frozen=True)
class Publication:
    """A partition that is being written.

    Attributes:
        directory: Where workers write its Parquet files, without subdirectories; absolute, hidden.
        commit: Publishes the files that a manifest names, and the manifest.
    """

    directory: str
    commit: Callable[[PartitionManifest], None]


@contextmanager
def publication(
    spark: SparkSession, config: ScoreConfig, ds: str, run_id: str
) -> Iterator[Publication]:
    """Write the partition of a day; a block that ends without ``commit`` publishes nothing.

    Args:
        spark: The session.
        config: Says where partitions are published, and how.
        ds: The day.
        run_id: Of this run; a Delta table takes what is published under one id once.

    Raises:
        ConfigError: Something that is none of ours is in the partition's place.
        RunError: Another run writes this partition, or published it meanwhile.
    """
    partition = storage.absolute(partition_path(config.path, ds))
    with publishing.scratch_directory(partition) as staging:
        publish = way_of(config).begin(spark, config, ds, run_id)

        def commit(manifest: PartitionManifest) -> None:
            keep_named_files(staging, manifest)
            publish(staging, manifest)

        yield Publication(staging, commit)


def manifest_of(config: ScoreConfig, ds: str) -> PartitionManifest | None:
    """The manifest of a day's scores as they are now.

    None where there are none, or where another hand than ours changed them.

    Raises:
        DataError: It is damaged.
    """
    return way_of(config).manifest_of(config, ds)


def read_partition(
    spark: SparkSession, config: ScoreConfig, ds: str, use: Callable[[DataFrame], Made]
) -> Made | None:
    """What ``use`` makes of a day's scores: those of one run, whatever is published meanwhile.

    Args:
        spark: The session.
        config: Says where scores are published, and how.
        ds: The day.
        use: Ends the reading, by an action; with plain Parquet it is called again where the
            partition was replaced while it read.

    Returns:
        None where there are no scores of that day.
    """
    return way_of(config).read(spark, config, ds, use)


def way_of(config: ScoreConfig) -> Way:
    """The module that publishes."""
    if config.table is not None:
        return catalog
    return delta if config.format == "delta" else parquet
