"""The lake of scores: how a day's partition is published, and what of it counts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import SparkSession

from conf import storage
from conf.partition import PartitionManifest, partition_path, read_partition_manifest
from conf.scoring import ScoreConfig
from feature_eng.lake import parquet
from feature_eng.lake.staged import keep_named_files


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
        run_id: Of this run; a retry under the same id publishes nothing twice.

    Raises:
        ConfigError: Something that is none of ours is in the partition's place.
        RunError: Another run writes this partition, or published it meanwhile.
    """
    partition = storage.absolute(partition_path(config.path, ds))
    with storage.scratch_directory(partition) as staging:
        publish = parquet.begin(partition)

        def commit(manifest: PartitionManifest) -> None:
            keep_named_files(staging, manifest)
            publish(staging, manifest)

        yield Publication(staging, commit)


def manifest_of(config: ScoreConfig, ds: str) -> PartitionManifest | None:
    """The manifest of a day's partition, as it counts now; None where there is none.

    Raises:
        DataError: It is damaged.
    """
    return read_partition_manifest(partition_path(config.path, ds))
