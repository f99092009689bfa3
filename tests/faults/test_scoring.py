"""kill -9 of scorings at any moment, while others read; two scorings at once."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from tests.data import DS, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import ROOT
from tests.e2e.training_under_test import TIMEOUT_S, wait_until

CHAINS, KILLS = 2, 5  # of each format: 20 kills
NEXT_DS = "2026-01-03"
Job = subprocess.Popen[str]
Rows = list[tuple[str, int, float]]


def start(root: Path, name: str, *arguments: str) -> Job:
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{name}", "--config", f"{root}/config.yaml", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, with its JVM
    )


def end(job: Job) -> tuple[int, str]:
    output, _ = job.communicate(timeout=TIMEOUT_S)
    return job.returncode, output


def done(job: Job) -> None:
    code, output = end(job)
    assert code == 0, output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of rows, and two bundles that score them otherwise."""
    root = tmp_path_factory.mktemp("scored")
    write_raw(root / "raw", raw_table(1500))
    for seed, ds in enumerate((DS, NEXT_DS), 1):
        write_raw(root / f"tonight/ds={ds}", raw_table(2000, seed).drop_columns("clicked"), files=4)
    write_config(root)
    done(start(root, "build_features"))
    for seed in range(2):
        done(
            start(
                *(root, "train", "--set", f"train.seed={seed}"),
                *("--set", "train.epochs=1", "--set", "train.num_workers=1"),
            )
        )
    return root


@dataclass(frozen=True)
class Table:
    """Scores under a path of their own, as any reader of the format sees them."""

    root: Path
    path: Path
    format: str

    def score(self, ds: str, bundle: Path) -> Job:
        sets = {"score.path": self.path, "score.format": self.format}
        options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
        # The bundles differ; what the gates say of it is not the question here.
        return start(self.root, "score", "--ds", ds, "--bundle", str(bundle), "--force", *options)

    def read(self, ds: str) -> Rows:
        if self.format == "delta":
            files = DeltaTable(self.path).file_uris(partition_filters=[("ds", "=", ds)])
        else:
            files = [str(path) for path in (self.path / f"ds={ds}").glob("*.parquet")]
        return rows_of([pq.read_table(file, partitioning=None) for file in files])

    def staging(self) -> list[Path]:
        return list(self.path.glob(".ds=*.staging-*/*.parquet"))


def rows_of(tables: Sequence[pa.Table]) -> Rows:
    columns = ("user", "item", "score")
    return sorted(tuple(row[c] for c in columns) for t in tables for row in t.to_pylist())


@contextmanager
def reading(table: Table, ds: str, whole: Sequence[Rows]) -> Iterator[list[int]]:
    """Read all the time; what is read is one of the whole partitions. Counts the readings."""
    stop, counts, faults = threading.Event(), [0] * len(whole), []

    def read() -> None:
        while not stop.is_set():
            try:
                found = table.read(ds)
            except FileNotFoundError:  # replaced between the listing and the reading
                continue
            if found in whole:
                counts[whole.index(found)] += 1
            else:
                faults.append(found)
            time.sleep(0.02)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()
    assert not faults


@pytest.mark.parametrize("format", ["parquet", "delta"])
def test_kill_9_of_a_scoring_at_any_moment(
    root: Path, tmp_path: Path, chance: random.Random, format: str
) -> None:
    bundles = sorted((root / "models").iterdir())
    whole, seconds = [], 0.0
    for number, bundle in enumerate(bundles):
        began = time.monotonic()
        alone = Table(root, tmp_path / f"alone-{number}", format)
        done(alone.score(DS, bundle))
        seconds = time.monotonic() - began
        whole.append(alone.read(DS))
    assert [len(rows) for rows in whole] == [2000, 2000]
    assert whole[0] != whole[1]
    table = Table(root, tmp_path / "scores", format)
    done(table.score(DS, bundles[0]))
    struck = 0
    with reading(table, DS, whole) as counts:
        for chain in range(CHAINS):
            now = (chain + 1) % 2
            for number in range(KILLS):
                job = table.score(DS, bundles[now])
                if number % 2:
                    wait_until(lambda job=job: table.staging() or job.poll() is not None, "files")
                    time.sleep(chance.uniform(0.0, 0.1) * seconds)
                else:
                    time.sleep(chance.uniform(0.3, 1.0) * seconds)
                ended = job.poll()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGKILL)
                end(job)
                found = whole.index(table.read(DS))
                left = [path.name for path in table.path.glob(".*")]
                print(f"{format}, chain {chain}, kill {number}: {ended=}, {found=}, left {left}")
                struck += bool(left)
            done(table.score(DS, bundles[now]))
            assert table.read(DS) == whole[now]
            assert not list(table.path.glob(".*"))
    assert all(counts), counts
    assert struck, "no scoring was killed while it wrote"


def test_of_two_scorings_of_a_day_one_is_published_and_of_two_days_both(
    root: Path, tmp_path: Path
) -> None:
    table = Table(root, tmp_path / "scores", "parquet")
    bundles = sorted((root / "models").iterdir())
    first, other = table.score(DS, bundles[0]), table.score(NEXT_DS, bundles[0])
    wait_until(lambda: list(table.path.glob(f".ds={DS}.staging-*")), "the first scoring")
    os.kill(first.pid, signal.SIGSTOP)  # else the second may start too late
    code, output = end(table.score(DS, bundles[1]))
    os.kill(first.pid, signal.SIGCONT)
    assert code == 4, output
    refused = rf"error: another run \(process {first.pid} on \S+\) is writing '\S+/ds={DS}'"
    assert re.search(refused, output), output
    done(first)
    done(other)
    assert sorted(os.listdir(table.path)) == [f"ds={DS}", f"ds={NEXT_DS}"]
    for ds in (DS, NEXT_DS):
        models = pq.read_table(table.path / f"ds={ds}", partitioning=None)["model_id"]
        assert set(models.to_pylist()) == {bundles[0].name}
        assert len(table.read(ds)) == 2000
