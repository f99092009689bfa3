"""The packed zip under spark-submit, on a standalone cluster of two workers."""

import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
from safetensors.torch import load_file

from tests.data import DS, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import ROOT
from tests.e2e.spark_cluster import clean_environment, standalone_cluster, submit
from tests.e2e.training_under_test import Training, assert_same_weights

ROWS = 1500


def test_the_zip_runs_every_job_on_a_cluster(tmp_path: Path) -> None:
    """And trains in its executors as local workers do."""
    table = raw_table(ROWS)
    write_raw(tmp_path / "raw", table)
    write_raw(tmp_path / "tonight" / f"ds={DS}", table.drop_columns("clicked"))
    config = write_config(tmp_path)
    with standalone_cluster(tmp_path) as master:
        done = subprocess.run(
            [
                *(*submit(master), "--conf", "spark.sql.shuffle.partitions=2"),
                *(str(ROOT / "jobs/pipeline.py"), "--launcher", "spark"),
                *("--config", str(config), "--ds", DS, "--set", "train.epochs=2"),
            ],
            cwd=tmp_path,  # not the checkout: all code must come out of the zip
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert re.search(rf"^score +{ROWS:,} +{ROWS:,} ", done.stdout, re.MULTILINE), done.stdout
    assert pq.read_table(tmp_path / f"scores/ds={DS}").num_rows == ROWS

    local = Training(tmp_path, tmp_path / "local", {"train.batch_size": 128})
    code, output = local.end()
    assert code == 0, output
    (weights,) = tmp_path.glob("models/*/model.safetensors")
    assert_same_weights(load_file(weights), local.weights())
