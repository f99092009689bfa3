"""All models of a comparison on one table: stopped, gone on with, and looked through."""

import json
import re
import signal
from pathlib import Path

import pytest

from jobs import compare, evaluate, train
from jobs.comparison import RIVALS
from tests.data import make_config, raw_table, write_raw
from tests.distributed.features import write_features
from tests.e2e.jobs_under_test import JobCaller, start_job
from tests.e2e.training_under_test import wait_until


def test_one_command_compares_all_models_on_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path)
    write_raw(tmp_path / "raw", raw_table(1000))
    root = tmp_path / "comparison"
    space = {"train.l2.embedding": {"low": 1e-5, "high": 1e-3}, "model.dropout": {"choices": [0.1]}}
    section = {"path": str(root), "trials": 1, "space": space}
    options = ["--set", f"tune={json.dumps(section)}", "--set", "train.epochs=1"]
    job = JobCaller(monkeypatch, capsys, tmp_path / "config.yaml")

    stopped = start_job("compare", "--config", str(tmp_path / "config.yaml"), *options)
    wait_until(lambda: list(root.glob("*/seed-1/models/*/manifest.json")), "a bundle")
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 4, said
    assert "terminated by SIGTERM" in said
    assert Path(config.features.path, "manifest.json").exists()
    begun = {path: path.stat().st_mtime_ns for path in root.glob("*/seed-*/models/*/manifest.json")}

    plan = job(compare, *options, "--dry-run")
    assert plan.code == 0, plan.err
    assert plan.out.splitlines()[1:4] == [
        "  fm: train.l2.embedding",
        "  fnn: train.l2.embedding, model.dropout, model.hidden",
        "  wide_deep: train.l2.embedding, model.dropout, model.hidden",
    ]

    done = job(compare, *options)
    assert done.code == 0, done.err
    bundles = list(root.glob("*/seed-*/models/*/manifest.json"))
    assert len(bundles) == len(compare.MODELS) * len(compare.SEEDS)
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    page = (root / "comparison.md").read_text()
    shown = dict(re.findall(r"^  (\S+) test auc +(\S+) ± \S+$", done.out, re.MULTILINE))
    assert list(shown) == list(compare.MODELS)
    for name, auc in shown.items():
        reports = [json.loads(p.read_text()) for p in root.glob(f"{name}/*/reports/*/report.json")]
        assert len(reports) == 3
        assert auc == f"{sum(report['auc'] for report in reports) / 3:.4f}"
        assert f"| {name} | {auc} ± " in page
    for rival in RIVALS:
        found = re.search(rf"nfm-\d beside {rival} +(better|within noise|worse)\n", done.out)
        assert found
        assert re.search(rf"\| {rival} \| .*[| *]{found[1]}\*?\*? \|", page)

    best = JobCaller(monkeypatch, capsys, root / "nfm-1/study/best.yaml")
    again = ["--set", "train.seed=2", "--set", f"train.path={tmp_path}/again"]
    again += ["--set", f"evaluate.path={tmp_path}/again-reports"]
    assert (best(train, *again).code, best(evaluate, *again).code) == (0, 0)
    (ours,) = (root / "nfm-1/seed-2/reports").glob("*/report.json")
    (theirs,) = (tmp_path / "again-reports").glob("*/report.json")
    assert json.loads(ours.read_text())["auc"] == json.loads(theirs.read_text())["auc"]


def test_what_a_comparison_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path)
    job = JobCaller(monkeypatch, capsys, tmp_path / "config.yaml")
    refused = job(compare)
    assert (refused.code, "the config has no tune section" in refused.err) == (2, True)
    write_features(config, [300, 300], [200], [200])
    rates = {"train.optimizer.learning_rate": {"choices": [1e30]}}
    section = {"path": f"{tmp_path}/comparison", "trials": 1, "space": rates}
    diverged = job(compare, "--set", f"tune={json.dumps(section)}")
    assert diverged.code == 4
    assert re.search(r"error: \w+: all of 1 trials diverged: .*/log\n", diverged.err)
