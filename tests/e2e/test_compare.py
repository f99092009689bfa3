"""All models of a comparison on one table, looked through; tests/faults kills such ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import build_features, compare, evaluate, train
from jobs.comparison import MODELS, SEEDS
from jobs.results import RIVALS
from tests.data import make_config, raw_table, write_raw
from tests.distributed.features import write_features
from tests.e2e.jobs_under_test import JobCaller


def section_of(root: Path, **more: object) -> str:
    space: dict[str, Any] = {
        "train.l2.embedding": {"low": 1e-5, "high": 1e-3},
        "model.dropout": {"choices": [0.1]},
    }
    return json.dumps({"path": str(root), "trials": 1, "space": space, **more})


def test_one_command_compares_all_models_on_a_table(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_config(tmp_path)
    write_raw(tmp_path / "raw", raw_table(1000))
    root = tmp_path / "comparison"
    options = ["--set", f"tune={section_of(root)}", "--set", "train.epochs=1"]
    job = JobCaller(monkeypatch, capsys, tmp_path / "config.yaml")
    assert job(build_features).code == 0
    plan = job(compare, *options, "--dry-run")
    assert plan.code == 0, plan.err
    assert plan.out.splitlines()[1:4] == [
        "  fm: train.l2.embedding",
        "  fnn: train.l2.embedding, model.dropout, model.hidden",
        "  wide_deep: train.l2.embedding, model.dropout, model.hidden",
    ]
    assert not root.exists()

    done = job(compare, *options)
    assert done.code == 0, done.err
    page = (root / "comparison.md").read_text()
    shown = dict(re.findall(r"^  (\S+) test auc +(\S+) ± \S+$", done.out, re.MULTILINE))
    assert list(shown) == list(MODELS)
    for name, auc in shown.items():
        reports = [json.loads(p.read_text()) for p in root.glob(f"{name}/*/reports/*/report.json")]
        assert len(reports) == len(SEEDS)
        assert auc == f"{sum(report['auc'] for report in reports) / 3:.4f}"
        assert f"| {name} | {auc} ± " in page
    for rival in RIVALS:
        found = re.search(rf"nfm-\d beside {rival} +(better|within noise|worse)\n", done.out)
        assert found
        assert re.search(rf"\| {rival} \| .*[| *]{found[1]}\*?\*? \|", page)

    best = JobCaller(monkeypatch, capsys, root / "nfm-1/study/best.yaml")
    sets = {
        "train.seed": 2,
        "train.path": tmp_path / "models",
        "evaluate.path": tmp_path / "reports",
    }
    by_hand = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    assert (best(train, *by_hand).code, best(evaluate, *by_hand).code) == (0, 0)
    (ours,) = (root / "nfm-1/seed-2/reports").glob("*/report.json")
    (theirs,) = (tmp_path / "reports").glob("*/report.json")
    assert json.loads(ours.read_text())["auc"] == json.loads(theirs.read_text())["auc"]


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
