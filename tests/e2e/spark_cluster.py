"""A Spark cluster of processes of this machine, and how a job gets there."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyspark

from tests.data import JVM_OPTIONS
from tests.e2e.jobs_under_test import ROOT
from tests.e2e.training_under_test import wait_until

SPARK_CLASS = Path(pyspark.__file__).parent / "bin/spark-class"


def packed() -> Path:
    """The zip for --py-files, made anew."""
    subprocess.run(["make", "--no-print-directory", "dist-zip"], cwd=ROOT, check=True)
    (package,) = (ROOT / "dist").glob("nfm_pipeline-*.zip")
    return package


def clean_environment() -> dict[str, str]:
    """Nothing of ours, so that all code has to come out of the zip."""
    ours = ("PYTHON", "SPARK")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**clean, "PYSPARK_PYTHON": sys.executable, "JAVA_TOOL_OPTIONS": JVM_OPTIONS}


def submit(master: str) -> list[str]:
    """A spark-submit of the packed code; the job and its arguments follow."""
    return [
        *(str(Path(sys.executable).with_name("spark-submit")), "--master", master),
        *("--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.ui.enabled=false"),
        *("--conf", "spark.scheduler.maxRegisteredResourcesWaitingTime=8s"),
        *("--conf", "spark.executor.memory=512m", "--py-files", str(packed())),
    ]


@contextlib.contextmanager
def standalone_cluster(directory: Path) -> Iterator[str]:
    """A master and two workers of a core each; yields the master's URL."""
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
            service = subprocess.Popen(command, env=clean_environment(), stdout=file, stderr=file)
            stack.callback(service.wait)
            stack.callback(service.terminate)
        wait_until(lambda: log.read_text().count("Successfully registered") == 2, "the cluster")
        yield url
