"""Builds and backfills that are cut short; `make faults` has more."""

import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from tests.bundles import bundle_of, write
from tests.data import DS, write_config, write_raw
from tests.e2e.jobs_under_test import ROOT, start_job
from tests.e2e.training_under_test import wait_until
from tests.scores import publish

TIMEOUT_S = 60.0
SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}


def test_builds_that_are_cut_short(root: Path, tmp_path: Path) -> None:
    """Both at once, for most of the time their JVMs are starting."""
    config = str(write_config(root))

    def cut_short(event: str) -> tuple[int, str]:
        features = shutil.copytree(root / "features", tmp_path / event)
        place = ("--set", f"features.path={features}/v1", "--overwrite")
        job = start_job("build_features", "--config", config, *place)
        try:
            wait_until(lambda: list(features.glob(".v1.staging-*/vocabulary")), "the vocabulary")
            job.send_signal(SIGNALS[event])
            output, _ = job.communicate(timeout=TIMEOUT_S)
        finally:
            job.kill()
        return job.returncode, output

    before = whole(root / "features")
    with ThreadPoolExecutor() as threads:
        ends = dict(zip(SIGNALS, threads.map(cut_short, SIGNALS), strict=True))
    for event, expected in (("Ctrl-C", 130), ("SIGTERM", 4)):
        code, output = ends[event]
        assert (code, "what was under way was not published" in output) == (expected, True), output
        assert "Traceback" not in output
        assert whole(tmp_path / event) == before
        assert [path.name for path in (tmp_path / event).iterdir()] == ["v1"]


# A backfill that is terminated while a day loads a bundle, for longer than it takes Spark to end.
TERMINATED = """
import os, signal, time
from pyspark.sql import SparkSession
from jobs import backfill, score
from jobs.cli import main

def slowly(path, load=score.load_bundle):
    os.kill(os.getpid(), signal.SIGTERM)
    while SparkSession._instantiatedSession:
        time.sleep(0.01)
    return load(path)

score.load_bundle = slowly
main(backfill.arguments(), backfill.run, backfill.plan)
"""


def test_a_backfill_that_is_stopped_begins_nothing_and_says_what_it_did(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    write(bundle, tmp_path / "models/drawn")
    write_raw(tmp_path / f"tonight/ds={DS}", pa.table({"k": ["a"], "price": [1.0]}))
    publish(None, bundle.config.score, "2026-01-01", "run", [(1, 0.5)])
    days = ("--from", "2026-01-01", "--to", "2026-01-03", "--only-missing")
    command = [sys.executable, "-c", TERMINATED, "--config", str(tmp_path / "config.yaml"), *days]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 4, done.stderr
    table = [line.split(maxsplit=3) for line in done.stdout.splitlines()[-3:]]
    assert [(row[0], row[3]) for row in table] == [
        ("2026-01-01", "skipped: has scores of model-1"),
        (DS, "interrupted"),
        ("2026-01-03", "not done"),
    ]
    assert "Traceback" not in done.stderr
    assert "2026-01-01 keeps scores of 'model-1', where 'drawn' was asked for" in done.stderr
    assert [path.name for path in (tmp_path / "scores").glob("ds=*")] == ["ds=2026-01-01"]


def whole(directory: Path) -> dict[str, bytes]:
    """Every file below it."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
