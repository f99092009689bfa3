"""What the ways to publish a day's scores have in common."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from pyspark.sql import DataFrame, SparkSession

from conf import storage
from conf.errors import RunError
from conf.partition import PartitionManifest
from conf.scoring import ScoreConfig

Made = TypeVar("Made")
# Publishes the files of a staged directory, which a manifest names.
Publish = Callable[[str, PartitionManifest], None]


class Way(Protocol):
    """A module of this package that publishes scores, and knows which of them count."""

    def begin(self, spark: SparkSession, config: ScoreConfig, ds: str, run_id: str) -> Publish:
        """Begin to replace the scores of a day, for the only run that may."""

    def manifest_of(self, config: ScoreConfig, ds: str) -> PartitionManifest | None:
        """The manifest of a day's scores as they are now."""

    def read(
        self, spark: SparkSession, config: ScoreConfig, ds: str, use: Callable[[DataFrame], Made]
    ) -> Made | None:
        """What ``use`` makes of a day's scores; None where there are none."""

    def unused(self, config: ScoreConfig, keep_hours: int) -> dict[str, list[str]]:
        """By day, the files that do not count as this looks, and are older."""

    def counting(self, config: ScoreConfig, ds: str) -> set[str]:
        """A day's files that count now."""


def keep_named_files(staging: str, manifest: PartitionManifest) -> None:
    """Remove what a manifest does not name: hashes of keys, files of tasks that Spark tried again.

    Raises:
        RunError: A file that it names is not there, or not as it was written.
    """
    assert manifest.files, "a day without rows has a file without rows, for the sake of its schema"
    fs, plain = storage.filesystem(staging)
    found = {entry["name"].rpartition("/")[2]: entry for entry in fs.ls(plain, detail=True)}
    for file in manifest.files:
        size = found.pop(file.path)["size"] if file.path in found else "no"
        if size != file.bytes:
            raise RunError(
                f"'{staging}/{file.path}' should hold {file.bytes} bytes and holds {size}: the "
                f"store lost what was written, and nothing was published; run again"
            )
    if found:
        fs.rm([entry["name"] for entry in found.values()], recursive=True)


def older(fs: Any, path: str, hours: int) -> bool:
    """Whether a file, or all that is in a directory, was last written so long ago.

    Args:
        fs: The file system of fsspec.
        path: On it.
        hours: How long.
    """
    until = datetime.now(UTC) - timedelta(hours=hours)
    try:
        # A directory without files may be of a run that has just begun.
        return all(fs.modified(file) <= until for file in fs.find(path) or [path])
    except FileNotFoundError:  # its run ended meanwhile
        return False
