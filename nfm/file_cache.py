"""Copies of a remote store's files on a local disk, shared by all workers of a machine."""

import contextlib
import hashlib
import logging
import os
import uuid
from pathlib import Path

from conf import storage
from conf.manifest import Manifest
from conf.training import CacheConfig

logger = logging.getLogger(__name__)

_SUFFIX = ".parquet"  # of all that we write, and of all that we remove


def read_bytes(path: str) -> bytes:
    """The content of a file, in one request to its store."""
    fs, plain = storage.filesystem(path)
    return bytes(fs.cat_file(plain))


class FileCache:
    """Keeps what was read, least recently read first to go.

    Files are told apart by their path and by the manifest that lists them: a data set that was
    built anew under the same path is another one, and the store need not be asked. Any number of
    processes may share the directory: a copy appears whole, and who has opened one keeps it though
    another process removes it.

    Args:
        config: Directory, below which the cache has its own, and how much it may hold.
        manifest: What the files belong to.
    """

    def __init__(self, config: CacheConfig, manifest: Manifest) -> None:
        self._directory = Path(config.path) / "nfm-cache"
        self._size_bytes = int(config.size_gb * 1e9)
        self._data_set = hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()

    def read(self, path: str) -> bytes:
        """The content of a file: from the disk, else from the store, and then kept."""
        name = hashlib.sha256(f"{self._data_set} {path}".encode()).hexdigest()
        copy = self._directory / f"{name}{_SUFFIX}"
        with contextlib.suppress(OSError):  # no copy there, or a disk that fails
            content = copy.read_bytes()
            os.utime(copy)  # read just now
            return content
        content = read_bytes(path)
        try:
            self._keep(content, copy)
        except OSError as error:
            logger.warning("no copy of '%s' in '%s': %s", path, self._directory, error)
        return content

    def _keep(self, content: bytes, copy: Path) -> None:
        if len(content) > self._size_bytes:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        self._make_room(len(content))
        staged = copy.with_name(f".{uuid.uuid4().hex}{_SUFFIX}")
        try:
            with staged.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # no half a copy after a power cut
            staged.rename(copy)
        finally:
            staged.unlink(missing_ok=True)

    def _make_room(self, size_bytes: int) -> None:
        """Remove what was not read for longest, also what a killed process had staged."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if not entry.name.endswith(_SUFFIX):
                    continue
                with contextlib.suppress(FileNotFoundError):  # another process removed it
                    stat = entry.stat()
                    found.append((stat.st_mtime_ns, stat.st_size, entry.path))
        total = size_bytes + sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._size_bytes:
                return
            Path(path).unlink(missing_ok=True)
            total -= size
