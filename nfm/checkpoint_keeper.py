"""Which checkpoints of a run a training can go on from, and which of them stay."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from conf.errors import RunError
from nfm.checkpoint import (
    checksum,
    directory_of,
    list_checkpoints,
    read_checksums,
    read_position,
)

logger = logging.getLogger(__name__)


def newest_whole(checkpoints: Path, alive: Callable[[], None]) -> int:
    """The step of the newest checkpoint that is whole, as is that of its best epoch; -1: of none.

    Those passed over are set aside as ``damaged-<name>``: new ones are of earlier steps, and would
    give way to them. Calls ``alive`` while it reads.
    """
    for path in list_checkpoints(checkpoints):
        found = damage(path, alive)
        if not found:
            at = read_position(path)
            best = directory_of(checkpoints, at.best_step)
            found = damage(best, alive) if at.best_epoch >= 0 and best != path else None
            if not found:
                return at.step
            found = f"that of its best epoch, '{best.name}': {found}"
        logger.warning("checkpoint '%s' is damaged (%s); taking the one before", path, found)
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return -1


def damage(checkpoint: Path, alive: Callable[[], None] = lambda: None) -> str | None:
    """What is wrong with a checkpoint, or None: every file is read and its checksum compared.

    Raises:
        RunError: The disk does not answer, which says nothing of what is on it.
    """
    try:
        expected = read_checksums(checkpoint)
        read_position(checkpoint)
        for name, sha256 in expected.items():
            if checksum(checkpoint / name, alive) != sha256:
                return f"checksum of {name} differs"
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    except OSError as error:
        raise RunError(
            f"checkpoint '{checkpoint}' cannot be read ({error}): mend the disk, then go on with "
            f"--resume"
        ) from None
    return None


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest ones, and those of the best epochs that they know of."""
    newest = [path for path in list_checkpoints(checkpoints) if _has_state(path)][:keep]
    best = {directory_of(checkpoints, read_position(path).best_step) for path in newest}
    for path in list_checkpoints(checkpoints):
        if path not in newest and path not in best:
            shutil.rmtree(path)


def _has_state(checkpoint: Path) -> bool:
    """Whether its position can be read; its tensors may be damaged all the same."""
    try:
        read_position(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True
