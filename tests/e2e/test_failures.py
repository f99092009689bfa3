"""A terminal's progress bar; and jobs and workers that are cut short: code, bundle, going on."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from feature_eng.build import build_features
from tests.data import make_config, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import start_job
from tests.e2e.training_under_test import Training, assert_same_weights, wait_until

TIMEOUT_S = 60.0
SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}


@pytest.fixture(scope="module")
def root(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("failures")
    write_raw(root / "raw", raw_table(1500))
    build_features(spark, make_config(root), overwrite=False)
    return root


def test_a_training_cut_short_again_and_again_ends_as_one_left_alone(
    root: Path, tmp_path: Path
) -> None:
    alone = Training(root, tmp_path / "alone")
    code, output = alone.end()
    assert code == 0, output

    place = tmp_path / "cut"
    for event, resume, epoch, step, code, messages in [
        ("Ctrl-C", (), 0, 15, 130, ("interrupted: what was under way", "goes on from its last")),
        ("kill -9", ("--resume",), 0, 25, -signal.SIGKILL, ()),
        ("SIGTERM", ("--resume",), 1, 5, 4, ("training stopped: stopped as asked after step",)),
    ]:
        cut = Training(root, place, arguments=resume)
        cut.wait_for_step(epoch, step)
        cut.job.send_signal(SIGNALS.get(event, signal.SIGKILL))
        found, output = cut.end()
        assert found == code, output
        assert all(message in output for message in messages), output
        assert "Traceback" not in output.split("error:")[0]
        cut.assert_unpublished()

    killed = Training(root, place, arguments=["--resume", cut.run.name])
    killed.wait_for_step(1, 25)
    killed.worker(1).kill()
    code, output = killed.end()
    assert code == 0, output
    assert re.search(r"attempt 1 of 4 failed: worker 1 on \S+ ended with exit code 137", output)
    assert f"models/{cut.run.name}" in output, "published under another name"
    assert_same_weights(killed.weights(), alone.weights())
    assert not (killed.run / "checkpoints").exists()


def test_a_worker_that_hangs_is_named_and_the_training_ends(root: Path, tmp_path: Path) -> None:
    once = {"train.stall_timeout_s": 20, "train.max_restarts": 0}
    training = Training(root, tmp_path, once)
    training.wait_for_step(0, 10)
    worker = training.worker(1)
    worker.suspend()
    code, output = training.end()
    assert code == 4, output
    assert re.search(
        r"training stopped: no step for 2\d s after step \d+ of \d+ in epoch 1", output
    )
    assert f"process {worker.pid} of the worker: T (stopped)" in output
    training.assert_unpublished()


@pytest.mark.parametrize(("event", "code"), [("Ctrl-C", 130), ("SIGTERM", 4)])
def test_a_build_that_is_cut_short(root: Path, event: str, code: int) -> None:
    features = root / "features"
    before = {path: path.read_bytes() for path in features.rglob("*") if path.is_file()}
    job = start_job("build_features", "--config", str(write_config(root)), "--overwrite")
    try:
        wait_until(lambda: list(features.glob(".v1.staging-*/vocabulary")), "the vocabulary")
        job.send_signal(SIGNALS[event])
        output, _ = job.communicate(timeout=TIMEOUT_S)
    finally:
        job.kill()
    assert (job.returncode, "what was under way was not published" in output) == (code, True), (
        output
    )
    assert "Traceback" not in output
    after = {path: path.read_bytes() for path in features.rglob("*") if path.is_file()}
    assert after == before
    assert [path.name for path in features.iterdir()] == ["v1"]


def test_a_terminal_shows_the_progress_of_an_epoch(root: Path, tmp_path: Path) -> None:
    where = [f"train.path={tmp_path}/models", f"train.work_path={tmp_path}/work"]
    # Steps of few rows, so that an epoch takes longer than the bar's interval.
    changed = [*where, "train.epochs=2", "train.batch_size=2"]
    sets = [part for item in changed for part in ("--set", item)]
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    job = start_job("train", "--config", str(write_config(root)), *sets, stderr=inside)
    os.close(inside)
    seen = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal that nobody writes to with EIO
        while piece := os.read(terminal, 4096):
            seen += piece
    os.close(terminal)
    output, _ = job.communicate(timeout=TIMEOUT_S)
    assert job.returncode == 0, output
    assert re.search(rb"epoch 1/2: +\d+%.*\d+/\d+ \[", seen), seen
    assert re.search(rb"epoch 2/2: +\d+%", seen), seen
