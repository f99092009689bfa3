"""Directories that the Python workers of all machines read: the driver's own, or copies of it."""

import atexit
import shutil
import tempfile
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem
from pyspark import SparkFiles
from pyspark.sql import SparkSession

from conf import storage


@dataclass(frozen=True)
class Shipped:
    """A directory of the driver, wherever a worker finds it.

    Attributes:
        name: Its path, where driver and workers share a disk, else that of the copy.
        shared: Which of the two.
    """

    name: str
    shared: bool

    def path(self) -> str:
        """Where this process finds it."""
        return self.name if self.shared else str(SparkFiles.get(self.name))


def ship(spark: SparkSession, directory: str) -> Shipped:
    """Give every executor of a cluster a copy of a local directory; a local master's share it.

    Executors fetch it when their first task begins, also those that join much later: it has to stay
    as long as this process.
    """
    if str(spark.sparkContext.master).startswith("local"):
        return Shipped(directory, shared=True)
    name = f"{Path(directory).name}-{uuid.uuid4().hex[:8]}"
    archive = f"{lasting_directory()}/{name}.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(Path(directory).rglob("*")):
            packed.write(path, path.relative_to(directory))
    spark.sparkContext.addArchive(f"{archive}#{name}")
    return Shipped(name, shared=False)


def lasting_directory() -> str:
    """A new directory on the driver's disk, until this process ends."""
    directory = tempfile.mkdtemp(prefix="nfm-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def local_copy(path: str) -> str:
    """A directory on the driver's disk: the one that is there, or a lasting copy."""
    fs, plain = storage.filesystem(path)
    if isinstance(fs, LocalFileSystem):
        return str(plain)
    copy = f"{lasting_directory()}/{plain.rpartition('/')[2]}"
    fs.get(plain, copy, recursive=True)
    return copy
