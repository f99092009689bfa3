"""Removes from the lake what does not count: old files, and what killed runs left."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from conf import publishing, storage
from conf.errors import DataError, RunError
from conf.partition import partition_path
from conf.scoring import DS, ScoreConfig
from feature_eng.lake import way_of
from feature_eng.lake.way import older

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removed:
    """A file or directory that is gone.

    Attributes:
        path: Where it was.
        bytes: In all its files.
    """

    path: str
    bytes: int


def vacuum(config: ScoreConfig, keep_hours: int, *, dry_run: bool) -> list[Removed]:
    """Remove what does not count.

    That is files which no manifest names, or the log of a Delta table needs no more, if they are
    older than ``keep_hours``; and what a killed run staged, at once where locks tell that it is
    dead, else when it is as old. A day that is being written is left as it is, and so is one whose
    manifest is damaged.

    Args:
        config: Says where scores are published, and how.
        keep_hours: The age.
        dry_run: Removes nothing, and returns what it would.
    """
    way = way_of(config)
    unused = way.unused(config, keep_hours)
    hidden = publishing.hidden_directories(config.path)
    days = {name.removeprefix(f"{DS}=") for name in hidden if name.startswith(f"{DS}=")}
    removed: list[Removed] = []
    for ds in sorted(days | {day for day, files in unused.items() if files}):
        partition = partition_path(config.path, ds)
        try:
            with publishing.only_run(partition) as alone:
                counting = way.counting(config, ds)
                paths = [path for path in unused.get(ds, ()) if path not in counting]
                paths += _left(partition, hidden.get(f"{DS}={ds}", []), alone, keep_hours)
                removed += list(_remove(config, paths, dry_run))
        except (DataError, RunError) as error:
            logger.warning("%s", error)
    return removed


def _left(partition: str, hidden: list[str], alone: bool, keep_hours: int) -> Iterator[str]:
    """Hidden directories of dead runs; not the only version that there is."""
    fs, _ = storage.filesystem(partition)
    for path in hidden:
        if publishing.is_retired(path) and not storage.exists(partition):
            continue
        if alone or older(fs, path, keep_hours):
            yield path


def _remove(config: ScoreConfig, paths: list[str], dry_run: bool) -> Iterator[Removed]:
    fs, _ = storage.filesystem(config.path)
    for path in filter(fs.exists, paths):  # a run may have ended since they were listed
        yield Removed(path, fs.du(path))
        if not dry_run:
            fs.rm(path, recursive=True)
