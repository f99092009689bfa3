"""A terminal's progress bar; and workers or jobs that are cut short: code, no bundle, no orphan."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pyspark.sql import SparkSession

from feature_eng.build import build_features
from tests.data import make_config, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import start_job

TIMEOUT_S = 60.0
SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "kill -9": signal.SIGKILL}


@pytest.fixture(scope="module")
def root(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("failures")
    write_raw(root / "raw", raw_table(1500))
    build_features(spark, make_config(root), overwrite=False)
    return root


def workers_of(root: Path) -> dict[int, psutil.Process]:
    """The Horovod workers that train under ``root``, by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[1:3] == ["-m", "nfm.worker"] and str(root) in command[-1]:
            found[int(process.environ()["HOROVOD_RANK"])] = process
    return found


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, f"waited {TIMEOUT_S:g} s for {what}"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("event", "code", "message"),
    [
        ("worker killed", 4, "worker 1 ended with exit code 137"),
        ("Ctrl-C", 130, "interrupted: what was under way"),
        ("SIGTERM", 4, "terminated by SIGTERM"),
        ("kill -9", -signal.SIGKILL, ""),
    ],
)
def test_training_that_is_cut_short(root: Path, event: str, code: int, message: str) -> None:
    forever = ["--set", "train.epochs=100000", "--set", "train.early_stopping.patience=100000"]
    work = root / "work" / event.split()[0]
    where = ["--set", f"train.work_path={work}"]
    job = start_job("train", "--config", str(write_config(root)), *forever, *where)
    try:
        wait_until(lambda: list(work.glob("*/metrics.jsonl")), "the first epoch")
        if event == "worker killed":
            workers_of(root)[1].kill()
        else:
            job.send_signal(SIGNALS[event])
        output, _ = job.communicate(timeout=TIMEOUT_S)
    finally:
        job.kill()
    assert (job.returncode, message in output) == (code, True), output
    assert "Traceback" not in output.split("error:")[0]
    assert not list(root.glob("models/*"))
    wait_until(lambda: not workers_of(root), "the workers to end")


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
