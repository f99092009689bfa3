"""A search for hyperparameters that is killed, goes on, and hands its best config to a training."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from jobs import train, tune
from tests.e2e.jobs_under_test import JobCaller
from tests.e2e.training_under_test import SETTINGS, Training

RATE = "train.optimizer.learning_rate"


def test_a_killed_study_goes_on_and_its_best_config_trains_alike(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    space = {RATE: {"low": 0.02, "high": 0.5}, "model.hidden": {"choices": [[16], []]}}
    section = {"path": str(study), "trials": 3, "space": space}
    sets: dict[str, object] = {"train.num_workers": 1, "tune": json.dumps(section)}
    killed = Training(root, tmp_path, sets, command=(sys.executable, "-m", "jobs.tune"))
    killed.wait_for_files("trial-2/checkpoints/*/state.json")
    killed.job.kill()
    killed.end()  # and nothing that worked for it is left
    first = pd.read_csv(study / "trials.csv")

    paths = {"train.path": tmp_path / "models", "train.work_path": tmp_path / "work"}
    pairs = [f"{key}={value}" for key, value in {**SETTINGS, **paths, **sets}.items()]
    options = [part for pair in pairs for part in ("--set", pair)]
    job = JobCaller(monkeypatch, capsys, root / "config.yaml")
    plan = job(tune, *options, "--dry-run")
    assert plan.code == 0, plan.err
    assert f"{RATE}: 0.02 to 0.5\n  model.hidden: one of [16], []\n" in plan.out
    assert "goes on with the study that is there" in plan.out
    done = job(tune, *options)
    assert done.code == 0, done.err
    assert re.search(r"going on after step \d+", done.err)
    table = pd.read_csv(study / "trials.csv")
    assert list(table["state"]) == ["done"] * 3
    pd.testing.assert_frame_equal(table[:1], first)
    best = table.loc[table["valid_auc"].idxmax()]
    assert (table[RATE][0], table["model.hidden"][0]) == (0.1, "[16]"), "not the config's own"
    assert re.search(r"^ +3 +done ", done.out, re.MULTILINE)
    assert re.search(rf"valid auc +{best['valid_auc']:.4f}\n", done.out)
    assert not list((tmp_path / "work").iterdir())
    assert not (tmp_path / "models").exists()

    trained = JobCaller(monkeypatch, capsys, study / "best.yaml")(train)
    assert trained.code == 0, trained.err
    (metrics,) = (tmp_path / "models").glob("*/metrics.json")
    assert json.loads(metrics.read_text())["auc"] == pytest.approx(best["valid_auc"], abs=1e-9)


def test_what_ends_a_study(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = JobCaller(monkeypatch, capsys, root / "config.yaml")
    section = {"path": f"{tmp_path}/study", "trials": 2, "space": {RATE: {"choices": [1e30, 1e31]}}}
    options = ["--set", f"tune={json.dumps(section)}", "--set", f"train.work_path={tmp_path}/work"]
    options += ["--num-workers", "1"]
    diverged = job(tune, *options)
    assert diverged.code == 4
    assert "all of 2 trials diverged: lower the learning rates in tune.space" in diverged.err
    assert list(pd.read_csv(tmp_path / "study/trials.csv")["state"]) == ["diverged"] * 2
    more = job(tune, *options, "--set", "train.epochs=1")
    assert (more.code, "train.epochs differ; go on with" in more.err) == (2, True), more.err
