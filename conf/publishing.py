"""Directories that appear whole or not at all, on any file system that fsspec knows."""

import ctypes
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from conf import storage
from conf.errors import ConfigError, RunError
from conf.lock import locked

_HIDDEN = re.compile(r"\.(?P<name>.+)\.(staging|retired)-[0-9a-f]{8}")


@contextmanager
def staged_directory(final: str, *, overwrite: bool, proof: str) -> Iterator[str]:
    """Fill a hidden directory beside ``final``, then put it in its place.

    Yields the path to write to. When the block ends normally the directory takes the name
    ``final`` (on a local disk in one atomic step, so that a reader sees the old or the new one);
    when it raises, what was staged is removed and ``final`` is as it was.

    Args:
        final: The directory to publish.
        overwrite: Whether an older one may be replaced.
        proof: A file that every directory of this kind holds; one without it is somebody else's,
            and never replaced.

    Raises:
        ConfigError: ``final`` exists and may not be replaced.
        RunError: Another run is writing ``final``, or published it meanwhile.
    """
    with scratch_directory(final) as staging:
        publish = replacing(final, overwrite=overwrite, proof=proof)
        yield staging
        publish(staging)


@contextmanager
def scratch_directory(final: str) -> Iterator[str]:
    """A hidden directory beside ``final``, for the only run that may write ``final`` now.

    It is removed when the block ends. Spark ignores the hidden names. What a killed run left beside
    ``final`` is cleared first, where locks tell that it is dead.

    Raises:
        RunError: Another run is writing ``final``.
    """
    fs, target = storage.filesystem(final)
    parent, _, name = target.rpartition("/")
    staging = f"{parent}/.{name}.staging-{uuid.uuid4().hex[:8]}"
    with only_run(final) as alone:
        if alone:
            _clear_after_killed_runs(fs, target)
        fs.makedirs(staging, exist_ok=True)
        try:
            # With the scheme as it was given, for Spark may know no other.
            scheme, url, _ = final.rpartition("://")
            yield f"{scheme}{url}{staging}"
        finally:
            # Must not hide why this run ends; what it leaves goes the next time.
            with suppress(OSError):
                _discard(fs, staging)


def _discard(fs: Any, staging: str) -> None:
    """Remove a staged directory, if it was not published."""
    if not fs.exists(staging):
        return
    if isinstance(fs, LocalFileSystem):
        # Under a new name: a task that was cancelled may still open files by the old one.
        renamed = f"{staging.rpartition('-')[0]}-{uuid.uuid4().hex[:8]}"
        with suppress(OSError):
            os.rename(staging, renamed)
            staging = renamed
    try:
        fs.rm(staging, recursive=True)
    except OSError:  # a file was being made there at that moment
        fs.rm(staging, recursive=True)


def replacing(final: str, *, overwrite: bool, proof: str) -> Callable[[str], None]:
    """Begin to replace ``final``; the result puts a staged directory in its place.

    Args and errors are those of ``staged_directory``.
    """
    fs, target = storage.filesystem(final)
    refuse_existing(final, overwrite=overwrite, proof=proof)
    refuse_other_run = unless_published(final, proof)

    def publish(staging: str) -> None:
        refuse_other_run()
        refuse_existing(final, overwrite=overwrite, proof=proof)
        _replace(fs, storage.filesystem(staging)[1], target, proof)

    return publish


def unless_published(final: str, proof: str) -> Callable[[], None]:
    """Look at what is published; the result raises ``RunError`` if another run published since."""
    fs, target = storage.filesystem(final)
    before = _version(fs, f"{target}/{proof}")

    def refuse_other_run() -> None:
        if _version(fs, f"{target}/{proof}") not in (before, None):
            raise RunError(
                f"another run published '{final}' meanwhile: that one stays, and nothing of "
                f"this one was published; run again if it is to be replaced"
            )

    return refuse_other_run


def only_run(final: str) -> AbstractContextManager[bool]:
    """A lock on a directory or file to publish; false where there are no locks.

    Raises:
        RunError: Another run holds it.
    """
    fs, target = storage.filesystem(final)
    if not isinstance(fs, LocalFileSystem):
        return nullcontext(False)
    parent, _, name = target.rpartition("/")
    fs.makedirs(parent, exist_ok=True)
    return locked(f"{parent}/.{name}.lock", target)


def _clear_after_killed_runs(fs: LocalFileSystem, target: str) -> None:
    """Put a retired version back if there is no other, and remove what was staged or retired.

    Only for the holder of the lock: then whoever made these directories is dead. (Its JVM may
    still write for a moment, but only under the old names; what it adds now goes the next time.)
    """
    parent, _, name = target.rpartition("/")
    for left in sorted(hidden_directories(parent).get(name, ())):
        if is_retired(left) and not fs.exists(target):
            fs.mv(left, target, recursive=True)
        else:
            shutil.rmtree(left, ignore_errors=True)


def hidden_directories(parent: str) -> dict[str, list[str]]:
    """By name of an output, the directories that its runs hold or left beside it."""
    fs, plain = storage.filesystem(parent)
    found: dict[str, list[str]] = {}
    for path in fs.ls(plain, detail=False) if fs.exists(plain) else ():
        if ours := _HIDDEN.fullmatch(path.rpartition("/")[2]):
            found.setdefault(ours["name"], []).append(path)
    return found


def is_retired(hidden: str) -> bool:
    """Whether a hidden directory was published once."""
    return ".retired-" in hidden.rpartition("/")[2]


def _version(fs: Any, proof: str) -> str | None:
    """What changes whenever a directory is published anew; None where there is none."""
    try:
        return str(fs.ukey(proof))
    except FileNotFoundError:
        return None


def refuse_existing(final: str, *, overwrite: bool, proof: str) -> None:
    """Raise ``ConfigError`` if ``final`` exists and may not be replaced."""
    fs, target = storage.filesystem(final)
    if not fs.exists(target) or (fs.isdir(target) and not fs.ls(target)):
        return
    if not overwrite:
        raise ConfigError(f"output '{final}' exists; say --overwrite to replace it")
    if not fs.exists(f"{target}/{proof}"):
        raise ConfigError(
            f"output '{final}' exists and holds no {proof}: it is none of ours, so --overwrite "
            f"leaves it alone; choose another path, or remove it yourself"
        )


def _replace(fs: Any, staging: str, target: str, proof: str) -> None:
    """Move ``staging`` to ``target``; an older target ends up under the name of ``staging``."""
    if isinstance(fs, LocalFileSystem):
        try:
            os.rename(staging, target)  # also onto an empty directory
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not _exchange(staging, target):
                _replace_by_two_renames(fs, staging, target, proof)
    elif fs.exists(target):
        _replace_by_two_renames(fs, staging, target, proof)
    else:
        storage.move_directory(fs, staging, target, proof)


def _exchange(one: str, other: str) -> bool:
    """Swap two directories in one step (renameat2); false where the file system cannot."""
    at_cwd, rename_exchange = -100, 2
    paths = os.fsencode(one), os.fsencode(other)
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return bool(renameat2 and renameat2(at_cwd, paths[0], at_cwd, paths[1], rename_exchange) == 0)


def _replace_by_two_renames(fs: Any, staging: str, target: str, proof: str) -> None:
    """Without an atomic swap: for a moment there is no target, but never a lost one."""
    retired = staging.replace(".staging-", ".retired-")
    try:
        storage.move_directory(fs, target, retired, proof)
        storage.move_directory(fs, staging, target, proof)
    except BaseException:
        if fs.exists(retired) and not fs.exists(target):
            storage.move_directory(fs, retired, target, proof)
        raise
    fs.rm(retired, recursive=True)
