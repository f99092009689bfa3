"""Other launchers than the local one; test_spark_submit.py has that of Spark on a cluster."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import train
from tests.data import write_config
from tests.e2e.conftest import Undisturbed
from tests.e2e.jobs_under_test import JobCaller
from tests.e2e.training_under_test import Training, assert_same_weights


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
