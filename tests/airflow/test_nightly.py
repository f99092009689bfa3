"""The nightly DAG under a real Airflow, on MovieLens-100K; `make test-airflow` runs it.

What the nights leave is in build/airflow.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.loader import dump_config, load_config
from conf.storage import write_text
from nfm.registry import bundles, read_alias

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build/airflow"
MODELS, DS, DAG = f"{HOME}/models", "1998-04-23", "nfm_nightly"
SETTINGS = {
    "features.path": HOME / "features",
    "train.path": MODELS,
    "train.work_path": HOME / "work",
    "train.epochs": 2,
    "model.embedding_dim": 16,
    "evaluate.path": HOME / "reports",
    "score.path": HOME / "scores",
    "nightly": json.dumps(
        {"schedule": "0 3 * * *", "start": "1998-04-20", "train_every_days": 7, "base": "serving"}
    ),
}
JOBS = ("build_features", "due", "train", "candidate", "promote", "score", "report")


def configure(**overrides: object) -> None:
    """Write the configuration of the nights to come."""
    items = [f"{key}={value}" for key, value in (SETTINGS | overrides).items()]
    config = load_config(f"{ROOT}/conf/movielens100k.yaml", items)
    write_text(f"{HOME}/config.yaml", dump_config(config))


def airflow(*arguments: str) -> "subprocess.CompletedProcess[str]":
    places = {"HOME": HOME, "_CORE__DAGS_FOLDER": HOME / "dags", "_CORE__LOAD_EXAMPLES": False}
    environment = {f"AIRFLOW_{name}": str(value) for name, value in places.items()}
    ours = {"NFM_CONFIG": f"{HOME}/config.yaml", "NFM_PYTHON": f"{ROOT}/.venv/bin/python"}
    return subprocess.run(
        [f"{ROOT}/.venv-airflow/bin/airflow", *arguments],
        cwd=HOME,
        env={**os.environ, **environment, **ours},
        capture_output=True,
        text=True,
        timeout=900,
    )


def night() -> tuple[bool, dict[str, str], str]:
    """Run the DAG for the day: whether the run counts as done, the tasks' states, the log."""
    run = airflow("dags", "test", DAG, DS)
    runs = json.loads(airflow("dags", "list-runs", DAG, "--output", "json").stdout)
    newest = max(runs, key=lambda run: run["run_id"])["run_id"]
    listed = airflow("tasks", "states-for-dag-run", DAG, newest, "--output", "json").stdout
    states = {task["task_id"]: task["state"] for task in json.loads(listed)}
    return run.returncode == 0, states, run.stdout + run.stderr


def serving() -> str:
    named = read_alias(MODELS, "serving")
    assert named is not None
    return named.model_id


def grow_old(model_id: str) -> str:
    """Have the bundle that serves look as if it was trained long ago."""
    ...


def scores() -> dict[tuple[int, int], tuple[float, str]]:
    """The day's partition: score and model by key."""
    import pyarrow.parquet as pq

    rows = pq.read_table(f"{HOME}/scores/ds={DS}").to_pylist()
    found = {(row["user_id"], row["item_id"]): (row["score"], row["model_id"]) for row in rows}
    assert len(found) == len(rows)
    return found
