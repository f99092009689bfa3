"""Plain Parquet partitions: the whole directory of a day changes its name at once."""

from collections.abc import Callable

from conf import storage
from conf.partition import FILE_NAME, PartitionManifest, write_partition_manifest


def begin(partition: str) -> Callable[[str, PartitionManifest], None]:
    """Begin to replace a partition; the result puts staged files in its place.

    Raises:
        ConfigError: What is there is no partition of scores.
    """
    replace = storage.replacing(partition, overwrite=True, proof=FILE_NAME)

    def publish(staging: str, manifest: PartitionManifest) -> None:
        write_partition_manifest(staging, manifest)
        replace(staging)

    return publish
