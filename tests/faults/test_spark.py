"""A Spark cluster that loses what works for a training."""

import re
from pathlib import Path

import torch

from tests.e2e.jobs_under_test import ROOT
from tests.e2e.spark_cluster import clean_environment, standalone_cluster, submit
from tests.e2e.training_under_test import Training, assert_same_weights


def test_a_spark_cluster_trains_through_the_death_of_a_worker(
    root: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    """First of a worker, then of an executor with all that runs in it."""
    with standalone_cluster(tmp_path) as master:
        training = Training(
            root,
            tmp_path / "place",
            # Three workers are one more than there is room for.
            arguments=["--launcher", "spark", "--num-workers", "3"],
            command=[*submit(master), str(ROOT / "jobs/train.py")],
            environment=clean_environment(),
        )
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
