"""Trainings that are stopped, on several hosts, refused: beside one that nothing happens to.

test_spark_submit.py has the launcher of Spark on a cluster, `make faults` what else may happen.
"""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import train
from tests.data import write_config
from tests.e2e.jobs_under_test import JobCaller
from tests.e2e.training_under_test import Training, assert_same_weights


@dataclass(frozen=True)
class Undisturbed:
    """A training of two local workers, and what a terminal showed of it."""

    training: Training
    screen: bytes


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    training = Training(root, tmp_path_factory.mktemp("undisturbed"), stderr=inside)
    os.close(inside)
    seen = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal that nobody writes to with EIO
        while piece := os.read(terminal, 4096):
            seen += piece
    os.close(terminal)
    code, output = training.end()
    assert code == 0, output + seen.decode()
    return Undisturbed(training, seen)


def test_a_terminal_shows_the_progress_of_an_epoch(undisturbed: Undisturbed) -> None:
    seen = undisturbed.screen
    assert re.search(rb"epoch 1/2: +\d+%.*\d+/\d+ \[", seen), seen
    assert re.search(rb"epoch 2/2: +\d+%", seen), seen


def test_a_training_that_is_stopped_and_loses_a_worker_ends_as_one_left_alone(
    root: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    stopped = Training(root, tmp_path)
    stopped.wait_for_step(0, 15)
    stopped.job.terminate()
    code, output = stopped.end()
    assert code == 4, output
    assert "training stopped: stopped as asked after step" in output
    assert "goes on from its last checkpoint" in output
    stopped.assert_unpublished()

    resumed = Training(root, tmp_path, arguments=["--resume"])
    resumed.wait_for_step(1, 5)
    resumed.worker(1).kill()
    code, output = resumed.end()
    assert code == 0, output
    assert re.search(r"attempt 1 of 4 failed: worker 1 on \S+ ended with exit code 137", output)
    assert f"models/{stopped.run.name}" in output, "published under another name"
    assert_same_weights(resumed.weights(), undisturbed.training.weights())
    assert not (resumed.run / "checkpoints").exists()


def test_hosts_train_as_one_machine_does(
    root: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Two names of this machine; `make faults` has two machines, as far as the network goes."""
    training = Training(root, tmp_path, arguments=["--hosts", "localhost:1,127.0.0.1:1"])
    code, output = training.end()
    assert code == 0, output
    assert "num_workers: 2" in (training.run / "config.yaml").read_text()
    assert_same_weights(training.weights(), undisturbed.training.weights())


@pytest.mark.parametrize("launcher", ["local", "spark"])
def test_what_a_worker_refuses_is_refused_at_once(
    root: Path,
    tmp_path: Path,
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    launcher: str,
) -> None:
    call = JobCaller(monkeypatch, capsys, write_config(root))
    (file, *_) = (root / "features/v1/train").glob("*.parquet")
    content = file.read_bytes()
    file.write_bytes(content[:100])
    try:
        outcome = call(
            train, "--launcher", launcher, "--set", f"train.work_path={tmp_path}", "--num-workers=2"
        )
    finally:
        file.write_bytes(content)
    assert (outcome.code, file.name in outcome.err) == (3, True), outcome
    assert "attempt 1 of" not in outcome.err
    assert "Traceback" not in outcome.err
