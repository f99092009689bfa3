"""A Spark cluster that loses what works for a training."""

import re
from pathlib import Path

import psutil
import torch

from tests.e2e.jobs_under_test import ROOT
from tests.e2e.spark_cluster import clean_environment, standalone_cluster, submit
from tests.e2e.training_under_test import Training, assert_same_weights


def train(root: Path, place: Path, master: str, *arguments: str) -> Training:
    return Training(
        root,
        place,
        arguments=["--launcher", "spark", *arguments],
        command=[*submit(master), str(ROOT / "jobs/train.py")],
        environment=clean_environment(),
    )


def test_a_spark_cluster_trains_through_the_death_of_a_worker(
    root: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    """First of a worker, then of an executor with all that runs in it."""
    with standalone_cluster(tmp_path) as master:
        # Three workers are one more than there is room for.
        training = train(root, tmp_path / "place", master, "--num-workers", "3")
        training.wait_for_step(0, 25)
        training.worker(1).kill()
        training.wait_for_attempt(2)
        training.wait_for_step(1, 5)
        (executor,) = [
            process
            for process in training.worker(0).parents()
            if "CoarseGrainedExecutorBackend" in " ".join(process.cmdline())
        ]
        executor.kill()
        code, output = training.end()
    assert code == 0, output
    assert "the executors have room for 2 workers of 3" in output
    assert re.search(r"attempt 1 of 4 failed: worker 1 on \S+ ended with exit code 137", output)
    assert "attempt 2 of 4 failed: " in output
    assert_same_weights(training.weights(), undisturbed)


def test_kill_9_of_the_driver_on_a_spark_cluster(
    root: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    with standalone_cluster(tmp_path) as master:
        killed = train(root, tmp_path / "place", master)
        killed.wait_for_step(0, 25)
        (driver,) = [
            process
            for process in psutil.Process(killed.job.pid).children(recursive=True)
            if str(ROOT / "jobs/train.py") in process.cmdline()[1:2]
        ]
        driver.kill()
        code, output = killed.end()  # which waits for all processes of the training
        assert code != 0, output
        killed.assert_unpublished()

        resumed = train(root, tmp_path / "place", master, "--resume")
        code, output = resumed.end()
    assert code == 0, output
    assert "going on after step" in output
    assert_same_weights(resumed.weights(), undisturbed)
