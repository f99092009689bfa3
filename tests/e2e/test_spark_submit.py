"""The packed zip under spark-submit, on a cluster of two executor processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.data import DS, raw_table, write_config, write_raw

ROOT = Path(__file__).parents[2]
ROWS = 1500


def test_the_zip_runs_on_a_cluster(tmp_path: Path) -> None:
    subprocess.run(["make", "--no-print-directory", "dist-zip"], cwd=ROOT, check=True)
    (package,) = (ROOT / "dist").glob("nfm_pipeline-*.zip")
    table = raw_table(ROWS)
    write_raw(tmp_path / "raw", table)
    write_raw(tmp_path / "tonight" / f"ds={DS}", table.drop_columns("clicked"))
    config = write_config(tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SPARK"))}
    submit = Path(sys.executable).with_name("spark-submit")
    done = subprocess.run(
        [
            *(str(submit), "--master", "local-cluster[2,1,1024]"),
            *("--conf", "spark.ui.enabled=false", "--conf", "spark.sql.shuffle.partitions=2"),
            *("--py-files", str(package), str(ROOT / "jobs/pipeline.py")),
            *("--config", str(config), "--ds", DS, "--set", "train.epochs=1"),
        ],
        cwd=tmp_path,  # not the checkout: all code must come out of the zip
        env={**environment, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert re.search(rf"^score +{ROWS:,} +{ROWS:,} ", done.stdout, re.MULTILINE), done.stdout
    assert pq.read_table(tmp_path / f"scores/ds={DS}").num_rows == ROWS
