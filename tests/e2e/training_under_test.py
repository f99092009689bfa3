"""Trainings as processes of their own: start one, wait for a moment, harm it, see what is left."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from nfm.checkpoint import list_checkpoints
from nfm.checkpoint_keeper import damage
from tests.data import make_config, raw_table, write_config, write_raw
from tests.distributed.features import write_features
from tests.e2e.jobs_under_test import ROOT

TIMEOUT_S = 180.0
PLACE = "NFM_TEST_PLACE"  # in the environment of all that works for a training
# Many short steps, a checkpoint every few of them, and restarts without a long pause.
SETTINGS = {
    "train.batch_size": 16,
    "train.epochs": 2,
    "train.early_stopping.patience": 100,
    "train.checkpoint.every_steps": 10,
    "train.restart_backoff_s": 0.1,
}


def write_data(root: Path) -> None:
    """A raw table, and features that take no Spark to build, for trainings and builds."""
    write_raw(root / "raw", raw_table(1500))
    write_features(make_config(root), [350, 350, 350], [115, 110])


class Training:
    """A ``jobs.train`` on the features under ``root``, with a place of its own for what it writes.

    Args:
        root: Directory of the features.
        place: Directory of the runs and the bundles.
        sets: Keys to set beside those above.
        arguments: Further ones, such as ``--resume``.
        command: What runs the job, if not this Python.
        environment: Of the job, if not ours.
        stderr: Where the job's errors go, if not to its output.
    """

    def __init__(
        self,
        root: Path,
        place: Path,
        sets: dict[str, object] | None = None,
        arguments: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "jobs.train"),
        environment: dict[str, str] | None = None,
        stderr: int = subprocess.STDOUT,
    ) -> None:
        self.place = place
        self.began = time.time()
        paths = {"train.path": place / "models", "train.work_path": place / "work"}
        settings: dict[str, object] = {**SETTINGS, **paths, **(sets or {})}
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        self.job = subprocess.Popen(
            [*command, "--config", str(write_config(root)), *options, *arguments],
            cwd=ROOT,
            env={**(environment or os.environ), PLACE: str(place)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    @property
    def run(self) -> Path:
        """The directory of the run."""
        return max((self.place / "work").iterdir())

    def wait_for_step(self, epoch: int, step: int) -> None:
        """Wait until a step of an epoch is taken; one below the first is the start."""

        def there() -> bool:
            if self.job.poll() is not None:
                raise AssertionError(f"ended too early: {self.job.communicate()[0]}")
            now = {"epoch": -1, "step": 0}
            for path in self.place.glob("work/*/progress.json"):
                with contextlib.suppress(FileNotFoundError):  # the next attempt takes it away
                    if path.stat().st_mtime > self.began:  # else it is that of an earlier job
                        now = json.loads(path.read_text())
            return (now["epoch"], now["step"]) >= (epoch, step)

        wait_until(there, f"step {step} of epoch {epoch}")

    def wait_for_files(self, pattern: str) -> None:
        """Wait, closely, until the run holds a file like this."""
        wait_until(lambda: list(self.place.glob(f"work/*/{pattern}")), pattern, poll_s=0.0005)

    def wait_for_attempt(self, number: int) -> None:
        """Wait until the workers are being started for the n-th time."""
        log = f"=== attempt {number}\n"
        paths = self.place.glob
        wait_until(lambda: any(log in p.read_text() for p in paths("work/*/workers.log")), log)

    def worker(self, rank: int) -> psutil.Process:
        """The process of a worker, which may still have to start."""
        wait_until(lambda: rank in workers_of(self.place), f"worker {rank}")
        return workers_of(self.place)[rank]

    def end(self, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Wait for the end of the job, and of all it started; its exit code and what it said.

        Checkpoints that it leaves are whole.
        """
        try:
            output, _ = self.job.communicate(timeout=timeout_s)
            wait_until(lambda: not processes_of(self.place), "all processes to end")
        finally:
            for process in [self.job, *processes_of(self.place)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        for checkpoints in self.place.glob("work/*/checkpoints"):
            assert not [found for path in list_checkpoints(checkpoints) if (found := damage(path))]
        return self.job.returncode, output or ""

    def weights(self) -> dict[str, torch.Tensor]:
        """Those of the bundle, of which there is one."""
        (bundle,) = self.place.glob("models/[!.]*")
        assert (bundle / "manifest.json").exists()
        return load_file(bundle / "model.safetensors")

    def epochs(self) -> list[dict[str, float]]:
        """What was logged of each."""
        return [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]

    def assert_unpublished(self) -> None:
        """No bundle is there, whole or not."""
        assert not list(self.place.glob("models/*")) + list(self.place.glob("models/.*"))


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal to 1e-6, as the same steps on the same numbers of workers must be."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6, msg=name)


def processes_of(place: Path) -> list[psutil.Process]:
    """What works for trainings of this place: launchers, horovodrun, ssh, lifelines, workers."""
    found = []
    for process in psutil.process_iter():
        # Of another user's, or one that is ending, nothing can be read.
        with contextlib.suppress(psutil.Error, OSError):
            if str(place) in " ".join([process.environ().get(PLACE, ""), *process.cmdline()]):
                found.append(process)
    return found


def workers_of(place: Path) -> dict[int, psutil.Process]:
    """The Horovod workers of trainings of this place, by rank."""
    workers = {}
    for process in processes_of(place):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[1:3] == ["-m", "nfm.worker"]:
                workers[int(process.environ()["HOROVOD_RANK"])] = process
    return workers


def wait_until(condition: Callable[[], object], what: str, poll_s: float = 0.05) -> None:
    """Wait for something, but not for ever."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, f"waited {TIMEOUT_S:g} s for {what}"
        time.sleep(poll_s)
