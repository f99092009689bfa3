"""kill -9 of scorings at any moment, while others read; two scorings at once."""

import contextlib
import os
import random
import re
import shutil
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
from pyspark.sql import SparkSession

from conf.loader import load_config
from jobs import score
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
        return start(self.root, "score", *self._options(ds, bundle))

    def score_here(self, ds: str, bundle: Path) -> None:
        """The same command in this process, whose Spark runs already: it takes a tenth."""
        given = ["--config", f"{self.root}/config.yaml", *self._options(ds, bundle)]
        options = score.arguments().parse_args(given)
        score.run(load_config(options.config, options.overrides), options)

    def _options(self, ds: str, bundle: Path) -> list[str]:
        sets = {"score.path": self.path, "score.format": self.format}
        options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
        # The bundles differ; what the gates say of it is not the question here.
        return ["--ds", ds, "--bundle", str(bundle), "--force", *options]

    def read(self, ds: str) -> Rows:
        if self.format == "delta":
            files = DeltaTable(self.path).file_uris(partition_filters=[("ds", "=", ds)])
        else:
            files = [str(path) for path in (self.path / f"ds={ds}").glob("*.parquet")]
        return rows_of([pq.read_table(file, partitioning=None) for file in files])

    def hidden(self) -> list[str]:
        return [path.name for path in self.path.glob(".*")]

    def staged(self) -> set[Path]:
        return set(self.path.glob(".ds=*.staging-*/*.parquet"))


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


def run_again(table: Table, bundle: Path, copy: Path) -> Rows:
    """What a run publishes after what a killed one left, which stays for the next kill."""
    shutil.copytree(table.path, copy)
    again = Table(table.root, copy, table.format)
    again.score_here(DS, bundle)
    assert again.hidden() == []
    rows = again.read(DS)
    shutil.rmtree(copy)
    return rows


@pytest.mark.parametrize("format", ["parquet", "delta"])
def test_kill_9_of_a_scoring_at_any_moment(
    spark: SparkSession, root: Path, tmp_path: Path, chance: random.Random, format: str
) -> None:
    bundles = sorted((root / "models").iterdir())
    table = Table(root, tmp_path / "scores", format)
    began = time.monotonic()
    done(table.score(DS, bundles[0]))
    seconds = time.monotonic() - began
    whole = [table.read(DS), run_again(table, bundles[1], tmp_path / "alone")]
    assert [len(rows) for rows in whole] == [2000, 2000]
    assert whole[0] != whole[1]
    struck = 0
    with reading(table, DS, whole) as counts:
        for chain in range(CHAINS):
            now = (chain + 1) % 2
            for number in range(KILLS):
                before = table.staged()
                job = table.score(DS, bundles[now])
                if number % 2:
                    wait_until(lambda b=before: table.staged() - b, "files of the scoring")
                    time.sleep(chance.uniform(0.0, 0.1) * seconds)
                else:
                    time.sleep(chance.uniform(0.3, 1.0) * seconds)
                ended = job.poll()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGKILL)
                end(job)
                found = whole.index(table.read(DS))
                left = table.hidden()
                print(f"{format}, chain {chain}, kill {number}: {ended=}, {found=}, left {left}")
                struck += bool(left)
                assert run_again(table, bundles[now], tmp_path / "again") == whole[now]
            done(table.score(DS, bundles[now]))
            assert table.read(DS) == whole[now]
            assert table.hidden() == []
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
