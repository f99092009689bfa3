"""The same training by every launcher: on this machine, over a list of hosts, in Spark."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import SparkSession

from feature_eng.build import build_features
from jobs import train
from tests.data import make_config, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import ROOT, JobCaller
from tests.e2e.training_under_test import Training, assert_same_weights, wait_until

SPARK_CLASS = Path(pyspark.__file__).parent / "bin/spark-class"


@pytest.fixture(scope="module")
def root(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("launchers")
    write_raw(root / "raw", raw_table(1500))
    build_features(spark, make_config(root), overwrite=False)
    return root


@pytest.fixture(scope="module")
def local(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training by the launcher that the others are compared with."""
    training = Training(root, tmp_path_factory.mktemp("local"))
    code, output = training.end()
    assert code == 0, output
    return training


def test_hosts_train_as_one_machine_does(root: Path, local: Training, tmp_path: Path) -> None:
    """Two names of this machine; `make faults` has two machines, as far as the network goes."""
    training = Training(root, tmp_path, arguments=["--hosts", "localhost:1,127.0.0.1:1"])
    code, output = training.end()
    assert code == 0, output
    assert "num_workers: 2" in (training.run / "config.yaml").read_text()
    assert_same_weights(training.weights(), local.weights())


def test_a_spark_cluster_trains_through_the_death_of_a_worker(
    root: Path, local: Training, tmp_path: Path
) -> None:
    """A standalone master, two of its workers, and all code out of the zip."""
    subprocess.run(["make", "--no-print-directory", "dist-zip"], cwd=ROOT, check=True)
    (package,) = (ROOT / "dist").glob("nfm_pipeline-*.zip")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SPARK"))}
    with standalone_cluster(tmp_path, clean) as master:
        submit = [
            *(str(Path(sys.executable).with_name("spark-submit")), "--master", master),
            *("--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.ui.enabled=false"),
            *("--conf", "spark.scheduler.maxRegisteredResourcesWaitingTime=8s"),
            *("--conf", "spark.executor.memory=512m", "--py-files", str(package)),
        ]
        training = Training(
            root,
            tmp_path / "place",
            # Three workers are one more than there is room for.
            arguments=["--launcher", "spark", "--num-workers", "3"],
            command=[*submit, str(ROOT / "jobs/train.py")],
            environment={**clean, "PYSPARK_PYTHON": sys.executable},
        )
        training.wait_for_step(0, 25)
        training.worker(1).kill()
        code, output = training.end()
    assert code == 0, output
    assert "the executors have room for 2 workers of 3" in output
    assert re.search(r"attempt 1 of 4 failed: worker 1 on \S+ ended with exit code 137", output)
    assert_same_weights(training.weights(), local.weights())


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


@contextlib.contextmanager
def standalone_cluster(directory: Path, environment: dict[str, str]) -> Iterator[str]:
    """A master and two workers of a core each, as processes; yields the master's URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"spark://127.0.0.1:{port}"
    services = [("master.Master", "--port", str(port))]
    services += [
        ("worker.Worker", "--cores", "1", "--memory", "1g", "--work-dir", f"{directory}/{n}", url)
        for n in ("one", "two")
    ]
    log = directory / "cluster.log"
    with contextlib.ExitStack() as stack, log.open("w") as file:
        for name, *options in services:
            command = [str(SPARK_CLASS), f"org.apache.spark.deploy.{name}"]
            command += ["--host", "127.0.0.1", "--webui-port", "0", *options]
            service = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
            stack.callback(service.wait)
            stack.callback(service.terminate)
        wait_until(lambda: log.read_text().count("Successfully registered") == 2, "the cluster")
        yield url
