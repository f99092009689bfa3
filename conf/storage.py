"""Directories that appear whole or not at all, on any file system that fsspec knows."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from conf.errors import ConfigError

logger = logging.getLogger(__name__)


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path on it."""
    fs, plain = fsspec.core.url_to_fs(path)
    return fs, plain.rstrip("/")


def exists(path: str) -> bool:
    """Whether a file or directory is there."""
    fs, plain = filesystem(path)
    return bool(fs.exists(plain))


def read_text(path: str) -> str:
    """The content of a UTF-8 file.

    Raises:
        FileNotFoundError: There is none.
    """
    fs, plain = filesystem(path)
    with fs.open(plain, "r", encoding="utf-8") as file:
        return str(file.read())


def write_text(path: str, text: str) -> None:
    """Write a UTF-8 file under a temporary name, then rename: a reader sees it whole."""
    fs, plain = filesystem(path)
    parent, _, name = plain.rpartition("/")
    temporary = f"{parent}/.{name}.{uuid.uuid4().hex[:8]}"
    with fs.open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    fs.mv(temporary, plain)


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it."""
    fs, plain = filesystem(path)
    fs.rm(plain, recursive=True)


@contextmanager
def staged_directory(final: str, *, overwrite: bool) -> Iterator[str]:
    """Fill a hidden directory beside ``final``, then put it in its place.

    Yields the path to write to. When the block ends normally the directory takes the name
    ``final``, an older one making room in the same breath; when it raises, what was staged is
    removed and ``final`` is as it was. Spark ignores the hidden names.

    Raises:
        ConfigError: ``final`` exists and ``overwrite`` is false.
    """
    refuse_existing(final, overwrite=overwrite)
    fs, target = filesystem(final)
    parent, _, name = target.rpartition("/")
    run = uuid.uuid4().hex[:8]
    staging, retired = f"{parent}/.{name}.staging-{run}", f"{parent}/.{name}.retired-{run}"
    fs.makedirs(staging, exist_ok=True)
    try:
        yield fs.unstrip_protocol(staging) if "://" in final else staging
        if fs.exists(target):
            fs.mv(target, retired, recursive=True)
        try:
            fs.mv(staging, target, recursive=True)
        except BaseException:
            if fs.exists(retired):
                fs.mv(retired, target, recursive=True)
            raise
    finally:
        for leftover in (staging, retired):
            if fs.exists(leftover):
                fs.rm(leftover, recursive=True)


def refuse_existing(final: str, *, overwrite: bool) -> None:
    """Raise ``ConfigError`` if ``final`` exists and may not be replaced."""
    if not overwrite and exists(final):
        raise ConfigError(f"output '{final}' exists; say --overwrite to replace it")
