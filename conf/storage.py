"""Files and directories on any file system that fsspec knows."""

import uuid
from collections.abc import Iterable
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path on it."""
    # No memory of listings: Spark writes to the same places.
    fs, plain = fsspec.core.url_to_fs(path, use_listings_cache=False)
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
    """Write a UTF-8 file so that a reader sees it whole.

    Under a temporary name, then renamed; an object of a store appears whole by itself.
    """
    fs, plain = filesystem(path)
    parent, _, name = plain.rpartition("/")
    whole = isinstance(fs, AsyncFileSystem)
    written = plain if whole else f"{parent}/.{name}.{uuid.uuid4().hex[:8]}"
    with fs.open(written, "w", encoding="utf-8") as file:
        file.write(text)
    if not whole:
        fs.mv(written, plain)


def absolute(path: str) -> str:
    """The path as any process on the machine can use it, whatever its working directory."""
    return path if "://" in path else str(filesystem(path)[1])


def make_directory(path: str) -> None:
    """Make a directory and those above it, if they are not there."""
    fs, plain = filesystem(path)
    fs.makedirs(plain, exist_ok=True)


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it."""
    fs, plain = filesystem(path)
    fs.rm(plain, recursive=True)


def remove_others(directory: str, kept: set[str]) -> None:
    """Remove the files of a directory whose names are not among these."""
    fs, plain = filesystem(directory)
    for path in fs.glob(f"{plain}/*"):
        if path.rpartition("/")[2] not in kept:
            fs.rm(path)


def remove_files(directory: str, names: Iterable[str]) -> None:
    """Remove these files of a directory, if they are there."""
    fs, plain = filesystem(directory)
    for path in filter(fs.exists, [f"{plain}/{name}" for name in names]):
        fs.rm(path)


def move_files(source: str, target: str, names: Iterable[str]) -> None:
    """Move files from one directory into another, which is made if it is not there."""
    fs, plain = filesystem(source)
    _, place = filesystem(target)
    fs.makedirs(place, exist_ok=True)
    if isinstance(fs, AsyncFileSystem):
        _move_objects(fs, [f"{plain}/{name}" for name in names], plain, place)
    else:
        for name in names:
            fs.mv(f"{plain}/{name}", f"{place}/{name}")


def move_directory(fs: Any, source: str, target: str, proof: str) -> None:
    """Give a directory another name, where there is none of that name.

    An object store has no directories: there every file is copied, then every original removed. A
    run may be killed at any moment of it, so the proof comes last and goes first: a directory that
    holds it is whole.
    """
    if isinstance(fs, AsyncFileSystem):
        files = fs.find(source)
        _move_objects(fs, sorted(files, key=f"{source}/{proof}".__eq__), source, target)
    else:
        fs.mv(source, target, recursive=True)


def _move_objects(fs: AsyncFileSystem, files: list[str], source: str, target: str) -> None:
    *others, last = files
    for some in filter(None, (others, [last])):
        fs.copy(some, [target + file.removeprefix(source) for file in some], on_error="raise")
    for some in filter(None, ([last], others)):
        fs.rm(some)


def has_directories(path: str) -> bool:
    """Whether a directory can be given another name, which an object store cannot do."""
    return not isinstance(filesystem(path)[0], AsyncFileSystem)
