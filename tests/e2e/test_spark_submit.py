"""The packed zip under spark-submit, on a cluster of two executor processes."""

import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq

from tests.data import DS, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import ROOT
from tests.e2e.spark_cluster import clean_environment, submit

ROWS = 1500


def test_the_zip_runs_on_a_cluster(tmp_path: Path) -> None:
    table = raw_table(ROWS)
    write_raw(tmp_path / "raw", table)
    write_raw(tmp_path / "tonight" / f"ds={DS}", table.drop_columns("clicked"))
    config = write_config(tmp_path)
    done = subprocess.run(
        [
            *(*submit("local-cluster[2,1,1024]"), "--conf", "spark.sql.shuffle.partitions=2"),
            str(ROOT / "jobs/pipeline.py"),
            *("--config", str(config), "--ds", DS, "--set", "train.epochs=1"),
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
