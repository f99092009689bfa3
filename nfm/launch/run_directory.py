"""The directory of a training, which outlives its launchers: who writes to it, who may go on."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf import storage
from conf.errors import ConfigError, DataError
from conf.loader import load_config
from conf.manifest import FILE_NAME as MANIFEST
from conf.manifest import Manifest, read_manifest
from conf.schema import Config
from nfm.checkpoint import CHECKPOINTS, list_checkpoints
from nfm.worker import CONFIG

LOCK = "lock"
NEWEST = "newest"
# What may change when a training goes on: where it runs, how it is looked after, and what is done
# with its bundle.
_MAY_DIFFER = {
    *("train.launcher", "train.hosts", "train.num_workers", "train.threads_per_worker"),
    *("train.placement", "train.cache", "train.checkpoint", "train.work_path"),
    *("train.max_restarts", "train.restart_backoff_s", "train.stall_timeout_s", "spark", "tune"),
    *("evaluate.path", "evaluate.split", "evaluate.segments", "promote", "score", "nightly"),
}
# Decides only where GAUC does.
_GROUP_BY = "evaluate.group_by"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other launchers out of a run; the lock ends with the process, however that ends.

    Raises:
        ConfigError: Another process has it.
    """
    with (run / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"'{run}' is being trained by another process; let it end") from None
        except OSError as error:
            logger.warning("no lock on '%s' (%s): see that nothing else trains there", run, error)
        yield


def how_to_go_on(run: Path) -> str:
    """What to say to somebody whose training has ended early."""
    if _has_checkpoint(run):
        return f"`jobs.train --resume {run.name}` goes on from its last checkpoint"
    return "there is no checkpoint yet: train again"


def run_to_resume(config: Config, manifest: Manifest, model_id: str) -> Path:
    """The directory of a training that has not published its bundle, and can go on.

    Args:
        config: Of the training that goes on; may name another launcher or number of workers.
        manifest: Of the features as they are now.
        model_id: The training's, or ``newest``: the newest with a checkpoint and this config.

    Raises:
        ConfigError: There is none, it is finished, or it has another config.
        DataError: The features were built anew since it began.
    """
    work = Path(config.train.work_path)
    if model_id == NEWEST:
        run = _newest(work, config)
    elif (work / model_id / CONFIG).exists():
        run = work / model_id
    else:
        raise ConfigError(f"no training '{model_id}' in '{work}'; see what is there")
    if bundle := _published(run, config):
        raise ConfigError(f"training '{model_id}' is finished: its bundle is '{bundle}'")
    if differing := differing_keys(load_config(str(run / CONFIG)), config):
        raise ConfigError(
            f"the config is not that of '{run}': {', '.join(differing)} differ; "
            f"resume with --config {run / CONFIG}, or train anew"
        )
    if read_manifest(str(run)) != manifest:
        raise DataError(f"'{config.features.path}' was built anew since '{run}' began: train anew")
    return run


def _newest(work: Path, config: Config) -> Path:
    names = sorted((path.parent.name for path in work.glob(f"*/{CONFIG}")), reverse=True)
    begun = [run for run in map(work.joinpath, names) if _has_checkpoint(run)]
    unfinished = [run for run in begun if not _published(run, config)]
    for run in unfinished:
        with contextlib.suppress(ConfigError):  # of another version, with other keys
            if not differing_keys(load_config(str(run / CONFIG)), config):
                return run
    if unfinished:
        return unfinished[0]  # to be refused, with the keys that differ
    raise ConfigError(f"no unfinished training with a checkpoint in '{work}': train anew")


def _has_checkpoint(run: Path) -> bool:
    return bool(list_checkpoints(run / CHECKPOINTS))


def _published(run: Path, config: Config) -> str | None:
    bundle = f"{config.train.path}/{run.name}"
    return bundle if storage.exists(f"{bundle}/{MANIFEST}") else None


def differing_keys(one: Config, other: Config) -> list[str]:
    """The dotted keys of what makes two trainings two."""
    first, second = (_by_key(config.model_dump(mode="json")) for config in (one, other))
    if one.train.early_stopping.metric != "gauc":
        first[_GROUP_BY] = second[_GROUP_BY] = None
    return [key for key in first | second if first.get(key) != second.get(key)]


def _by_key(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key, without those that may differ."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        key = prefix + name
        if key not in _MAY_DIFFER:
            flat |= _by_key(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat
