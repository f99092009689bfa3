"""Directories that the Python workers of all machines read, one copy on each."""

import os
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    """Give every machine of a cluster a copy of a local directory; local workers share it."""
    if str(spark.sparkContext.master).startswith("local"):
        return Shipped(directory, shared=True)
    name = f"{Path(directory).name}-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as temporary:
        archive = f"{temporary}/{name}.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for path in sorted(Path(directory).rglob("*")):
                packed.write(path, path.relative_to(directory))
        spark.sparkContext.addArchive(f"{archive}#{name}")
    return Shipped(name, shared=False)


@contextmanager
def local_directory(path: str) -> Iterator[str]:
    """A directory on the driver's disk: the one that is there, or a copy for the time being."""
    fs, plain = storage.filesystem(path)
    if os.path.isdir(plain):
        yield plain
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = f"{temporary}/{plain.rpartition('/')[2]}"
        fs.get(plain, copy, recursive=True)
        yield copy
