"""A Spark cluster that loses what scores a day."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data import DS, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import ROOT, start_job
from tests.e2e.spark_cluster import clean_environment, standalone_cluster, submit
from tests.e2e.training_under_test import TIMEOUT_S, wait_until

COPIES = 150  # of each of 2,000 rows: seconds of work for a task


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lost")
    write_raw(root / "raw", raw_table(1500))
    table = raw_table(2000, seed=1).drop_columns("clicked")
    write_raw(root / f"tonight/ds={DS}", pa.concat_tables([table] * COPIES), files=4)
    write_config(root)
    config = ("--config", f"{root}/config.yaml")
    for name, *others in (("build_features",), ("train", "--num-workers", "1")):
        job = start_job(name, *config, *others)
        output, _ = job.communicate(timeout=TIMEOUT_S)
        assert job.returncode == 0, output
    return root


def writers(lake: Path) -> Iterator[psutil.Process]:
    """Python workers that have a file of scores open."""
    for process in psutil.process_iter():
        try:
            if any(f"/.ds={DS}.staging-" in file.path for file in process.open_files()):
                yield process
        except psutil.Error:
            continue


def executor_of(worker: psutil.Process) -> psutil.Process:
    return next(
        process
        for process in worker.parents()
        if "CoarseGrainedExecutorBackend" in " ".join(process.cmdline())
    )


@pytest.mark.parametrize("lost", [lambda worker: worker, executor_of], ids=["worker", "executor"])
def test_a_task_that_dies_while_it_writes_is_tried_again(
    lake: Path, tmp_path: Path, lost: Callable[[psutil.Process], psutil.Process]
) -> None:
    """On a cluster whose machines get model and vocabulary from the driver."""
    with standalone_cluster(tmp_path) as master:
        job = subprocess.Popen(
            [
                *(*submit(master), str(ROOT / "jobs/score.py")),
                *("--config", f"{lake}/config.yaml", "--ds", DS, "--force"),
            ],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        found: list[psutil.Process] = []
        wait_until(lambda: job.poll() is not None or found.extend(writers(lake)) or found, "a file")
        assert found, job.communicate()
        lost(found[0]).kill()
        output, _ = job.communicate(timeout=TIMEOUT_S)
    assert job.returncode == 0, output
    assert "Lost task" in output, "the task had ended before it was struck"
    partition = lake / f"scores/ds={DS}"
    manifest = json.loads((partition / "_manifest.json").read_text())
    assert manifest["rows"] == manifest["source"]["rows"] == 2000 * COPIES
    files = {path.name for path in partition.glob("*.parquet")}
    assert files == {file["path"] for file in manifest["files"]}, (
        "what the dead had written is gone"
    )
    scores = pq.read_table(partition, partitioning=None, columns=["user", "item"])
    counted = scores.group_by(["user", "item"]).aggregate([([], "count_all")])
    assert len(counted) == 2000
    assert set(counted["count_all"].to_pylist()) == {COPIES}
    assert [path.name for path in (lake / "scores").iterdir()] == [f"ds={DS}"]
