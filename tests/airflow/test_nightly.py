"""Nights of the DAG under a real Airflow, on MovieLens-100K; `make test-airflow` runs them.

What they leave is in build/airflow.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from conf import storage
from conf.loader import dump_config, load_config
from conf.manifest import read_manifest
from nfm.registry import Promotion, bundles, promote, read_alias

ROOT = Path(__file__).parents[2]
HOME = ROOT / "build/airflow"
MODELS, FEATURES = f"{HOME}/models", f"{HOME}/features"
DAG, DS = "nfm_nightly", "1998-04-23"
SETTINGS: dict[str, object] = {
    "raw.ds_column": "timestamp",
    "features.path": FEATURES,
    "train.path": MODELS,
    "train.work_path": HOME / "work",
    "train.epochs": 2,
    "model.embedding_dim": 16,
    "evaluate.path": HOME / "reports",
    "score.path": HOME / "scores",
    "nightly": json.dumps(
        {
            "schedule": "0 3 * * *",
            "start": "1998-04-01",
            "train_every_days": 7,
            "days": 300,  # all that there are
            "base": "serving",
            "task_hours": 1,
        }
    ),
}
TRAINING = ("train", "candidate", "promote")  # what follows if one is due


@dataclass(frozen=True)
class Night:
    """A run of the DAG.

    Attributes:
        succeeded: Whether Airflow counts it as a success.
        states: Of its tasks.
        log: Theirs.
    """

    succeeded: bool
    states: dict[str, str]
    log: str


def airflow(*arguments: str) -> "subprocess.CompletedProcess[str]":
    settings = {
        "AIRFLOW_HOME": HOME,
        "AIRFLOW__CORE__DAGS_FOLDER": HOME / "dags",
        "AIRFLOW__CORE__LOAD_EXAMPLES": False,
        "NFM_CONFIG": HOME / "config.yaml",
    }
    return subprocess.run(
        [f"{ROOT}/.venv-airflow/bin/airflow", *arguments],
        env=os.environ | {name: str(value) for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=1200,
    )


def listed(*arguments: str) -> list[dict[str, str]]:
    """What a command of Airflow lists, after its own warnings."""
    output = airflow(*arguments, "--output", "json").stdout
    found: list[dict[str, str]] = json.loads(output[output.index("[{") :])
    return found


def night(*, build: bool = True, **overrides: object) -> Night:
    """Run the DAG for the day, which is not the newest, with a configuration of its own."""
    items = [f"{key}={value}" for key, value in (SETTINGS | overrides).items()]
    config = load_config(f"{ROOT}/conf/movielens100k.yaml", items)
    storage.write_text(f"{HOME}/config.yaml", dump_config(config))
    run = airflow("dags", "test", DAG, DS, *(("--conf", '{"build": true}') if build else ()))
    newest = max(run["run_id"] for run in listed("dags", "list-runs", DAG))
    tasks = listed("tasks", "states-for-dag-run", DAG, newest)
    states = {task["task_id"]: task["state"] for task in tasks}
    return Night(run.returncode == 0, states, run.stdout + run.stderr)


def serving() -> str:
    named = read_alias(MODELS, "serving")
    assert named is not None
    return named.model_id


def let_time_pass() -> str:
    """The bundle that serves gets the name of one that was trained long ago."""
    old = "20000101T000000-nfm-old"
    Path(MODELS, serving()).rename(f"{MODELS}/{old}")
    made = Promotion(model_id=old, since="2000-01-01T00:00:00", reason="renamed", gate=None)
    promote(MODELS, "serving", made, serving())
    return old


def scores() -> dict[tuple[int, int], float]:
    """The day's partition, by key."""
    rows = pq.read_table(f"{HOME}/scores/ds={DS}").to_pylist()
    found = {(row["user_id"], row["item_id"]): row["score"] for row in rows}
    assert len(found) == len(rows)
    assert {row["model_id"] for row in rows} == {serving()}
    return found


def test_nights() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / "dags").mkdir(parents=True)
    (HOME / "dags/nfm_nightly.py").symlink_to(ROOT / "jobs/airflow/nfm_nightly.py")
    migrated = airflow("db", "migrate")
    assert migrated.returncode == 0, migrated.stderr

    first = night()
    errors = airflow("dags", "list-import-errors", "--local")
    assert "No data found" in errors.stdout, errors.stdout
    assert first.succeeded, first.log
    assert first.states.pop("failed") == "skipped"
    assert set(first.states.values()) == {"success"}, first.log
    assert bundles(MODELS) == [serving()]
    assert (HOME / f"reports/{serving()}-gate.json").exists()
    published = scores()
    raw = pq.read_table(f"{ROOT}/build/demo/raw/candidates", filters=[("ds", "=", DS)])
    assert len(published) == raw.num_rows
    source = read_manifest(FEATURES).source
    assert (source.ds_from, source.ds_to, source.rows) == ("1997-06-28", DS, 100_000)

    # The same day again: no training is due, and the same model gives the same partition.
    again = night()
    assert again.succeeded, again.log
    assert {again.states[task] for task in ("due", *TRAINING)} == {"skipped"}
    assert scores() == published

    # A day that is not the newest, though a training is due: it is scored, all else stays.
    old = let_time_pass()
    features = Path(FEATURES).stat().st_ino
    older = night(build=False)
    assert older.succeeded, older.log
    for done in ("newest_day", "score", "report"):
        assert older.states.pop(done) == "success", older.log
    assert set(older.states.values()) == {"skipped"}
    assert (Path(FEATURES).stat().st_ino, bundles(MODELS)) == (features, [old])
    assert scores() == published

    # A candidate that does not reach the bar: its promotion fails, the day is scored without it.
    refused = night(**{"promote.bar": 0.999})
    assert refused.succeeded, refused.log
    assert [refused.states[task] for task in TRAINING] == ["success", "success", "failed"]
    assert "auc against the bar" in refused.log
    assert (refused.states["score"], serving(), len(bundles(MODELS))) == ("success", old, 2)
    assert scores() == published

    # Features that cannot be built: the day is scored all the same, but the run has failed.
    broken = night(**{"raw.path": HOME / "nowhere"})
    assert not broken.succeeded
    states = [broken.states[task] for task in ("build_features", *TRAINING, "failed")]
    assert states == ["failed", *["upstream_failed"] * 3, "failed"]
    assert broken.states["score"] == "success", broken.log
    assert scores() == published
