"""kill -9 of builds of features at any moment, two builds at once, a directory closed to them."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.manifest import Manifest, read_manifest
from tests.data import raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import ROOT
from tests.e2e.training_under_test import TIMEOUT_S, wait_until

KILLS, ROWS = 8, 1500
Build = subprocess.Popen[str]
# Root may read everything, unless it has given this up.
AS_ANYONE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write_raw(tmp_path / "raw", raw_table(ROWS))
    write_config(tmp_path)
    return tmp_path


def start(lake: Path, *arguments: str, seed: int = 0, prefix: list[str] | None = None) -> Build:
    job = [sys.executable, "-m", "jobs.build_features", "--config", f"{lake}/config.yaml"]
    return subprocess.Popen(
        [*(prefix or []), *job, "--set", f"features.seed={seed}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, with its JVM
    )


def end(build: Build) -> tuple[int, str]:
    output, _ = build.communicate(timeout=TIMEOUT_S)
    return build.returncode, output


def whole(features: Path) -> tuple[Manifest, dict[str, bytes]]:
    """What a version says of itself, after a check, and all its files."""
    manifest = read_manifest(str(features))
    assert sum(split.rows for split in manifest.splits.values()) == ROWS
    for split in manifest.splits.values():
        for file in split.files:
            assert pq.read_table(features / file.path).num_rows == file.rows
    known = pq.read_table(features / "vocabulary").num_rows
    vocabularies = [field for field in manifest.fields if field.name in ("user", "item", "device")]
    assert known >= sum(field.cardinality - 2 for field in vocabularies)
    files = {str(path): path.read_bytes() for path in features.rglob("*") if path.is_file()}
    return manifest, files


def test_kill_9_of_a_build_at_any_moment(lake: Path, chance: random.Random) -> None:
    features = lake / "features"
    began = time.monotonic()
    code, output = end(start(lake))
    assert code == 0, output
    seconds = time.monotonic() - began
    before = whole(features / "v1")
    left = 0
    for seed, part in enumerate((chance.uniform(0.2, 1.0) for _ in range(KILLS)), 1):
        build = start(lake, "--overwrite", seed=seed)
        time.sleep(part * seconds)
        ended = build.poll()
        os.killpg(build.pid, signal.SIGKILL)
        end(build)
        hidden = [path.name for path in features.iterdir() if path.name != "v1"]
        print(f"kill -9 after {part:.0%} of {seconds:.0f} s: {ended=}, left {hidden}")
        assert all(name.startswith(".v1.") for name in hidden)
        left += bool(hidden)
        now = whole(features / "v1")
        # Another one only if it was published whole in time.
        assert now == before or now[0].config_fingerprint != before[0].config_fingerprint
        before = now
    assert left, "no build was killed while it wrote"
    code, output = end(start(lake, "--overwrite", seed=KILLS + 1))
    assert code == 0, output
    assert os.listdir(features) == ["v1"]
    assert whole(features / "v1")[0] != before[0]


def test_of_two_builds_at_once_one_is_published(lake: Path) -> None:
    first = start(lake, seed=1)
    wait_until(lambda: list(lake.glob("features/.v1.staging-*")), "the first build")
    code, output = end(start(lake, "--overwrite", seed=2))
    assert code == 4, output
    refused = rf"error: another run \(process {first.pid} on \S+\) is writing '\S+/features/v1'"
    assert re.search(refused, output), output
    code, output = end(first)
    assert code == 0, output
    assert os.listdir(lake / "features") == ["v1"]
    assert "seed: 1\n" in (lake / "features/v1/config.yaml").read_text()
    whole(lake / "features/v1")


@pytest.mark.parametrize("closed", ["raw", "raw/part-1.parquet"])
def test_a_closed_directory_or_file_is_named(lake: Path, closed: str) -> None:
    path = lake / closed
    path.chmod(0)
    try:
        code, output = end(start(lake, prefix=AS_ANYONE if os.geteuid() == 0 else None))
    finally:
        path.chmod(0o755)
    assert code == 3, output
    error = output.rpartition("error: ")[2]
    assert f"{path}" in error
    assert "Permission denied" in error
    assert "\tat " not in output, "a stack"
    assert not list(lake.glob("features/*"))
