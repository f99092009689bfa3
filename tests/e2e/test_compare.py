"""Models of a comparison on one table, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from conf.loader import load_config
from jobs import build_features, compare, evaluate, train
from jobs.comparison import tune_and_train
from tests.data import make_config, raw_table, write_raw
from tests.distributed.features import write_features
from tests.e2e.jobs_under_test import JobCaller


def section_of(root: Path, **more: object) -> str:
    space: dict[str, Any] = {
        "train.l2.embedding": {"low": 1e-5, "high": 1e-3},
        "model.dropout": {"choices": [0.1]},
    }
    return json.dumps({"path": str(root), "trials": 1, "space": space, **more})


def test_a_model_and_one_that_begins_from_it_are_tuned_trained_and_judged(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process; all models, in processes of their own, are for `make faults`."""
    monkeypatch.setattr("jobs.comparison.SEEDS", (1, 2))
    root = tmp_path / "comparison"
    config = make_config(tmp_path, f"tune={section_of(root)}", "train.epochs=1")
    write_raw(tmp_path / "raw", raw_table(1000))
    job = JobCaller(monkeypatch, capsys, tmp_path / "config.yaml")
    assert job(build_features).code == 0
    plan = job(compare, "--set", f"tune={section_of(root)}", "--dry-run")
    assert plan.code == 0, plan.err
    assert plan.out.splitlines()[1:4] == [
        "  fm: train.l2.embedding",
        "  fnn: train.l2.embedding, model.dropout, model.hidden",
        "  wide_deep: train.l2.embedding, model.dropout, model.hidden",
    ]
    assert not root.exists()

    fm, fnn = tune_and_train(config, ["fm", "fnn"], None)
    for name, runs in (("fm", fm), ("fnn", fnn)):
        assert [run.seed for run in runs] == [1, 2]
        for run in runs:
            (report,) = root.glob(f"{name}/seed-{run.seed}/reports/*-test/report.json")
            assert run.test["auc"] == json.loads(report.read_text())["auc"]
            assert load_config(run.config).model.name == name
    for run in fnn:  # each from the fm of its seed
        (bundle,) = root.glob(f"fnn/seed-{run.seed}/models/*/config.yaml")
        (begin,) = root.glob(f"fm/seed-{run.seed}/models/*")
        assert load_config(str(bundle)).train.init_from == str(begin)

    best = JobCaller(monkeypatch, capsys, Path(fm[0].config))
    sets = {
        "train.seed": 2,
        "train.path": tmp_path / "again",
        "evaluate.path": tmp_path / "reports",
    }
    by_hand = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    assert (best(train, *by_hand).code, best(evaluate, *by_hand).code) == (0, 0)
    (report,) = (tmp_path / "reports").glob("*/report.json")
    assert json.loads(report.read_text())["auc"] == fm[1].test["auc"]
    assert tune_and_train(config, ["fm", "fnn"], None) == [fm, fnn]  # which trains nothing
    assert len(list(root.glob("*/seed-*/models/*/config.yaml"))) == 4


def test_what_a_comparison_refuses_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_features(make_config(tmp_path), [300], [200], [200])
    job = JobCaller(monkeypatch, capsys, tmp_path / "config.yaml")
    refused = job(compare)
    assert (refused.code, "the config has no tune section" in refused.err) == (2, True)
    root = tmp_path / "comparison"
    typo = section_of(root, space={"train.l2.embeding": {"low": 0.1, "high": 0.2}})
    for arguments in ((), ("--dry-run",)):
        refused = job(compare, "--set", f"tune={typo}", *arguments)
        assert (refused.code, "unknown key 'embeding'" in refused.err) == (2, True), refused.err
    assert not root.exists()
