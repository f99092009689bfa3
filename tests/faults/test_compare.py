"""kill -9 of a comparison at any moment: the same command goes on, to the same page."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from jobs.comparison import MODELS, SEEDS
from jobs.results import RIVALS
from tests.data import raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import ROOT
from tests.e2e.training_under_test import PLACE, processes_of, wait_until

KILLS = 3


def start(lake: Path, root: Path) -> "subprocess.Popen[str]":
    space = {"train.l2.embedding": {"low": 1e-5, "high": 1e-3}}
    section = json.dumps({"path": str(root), "trials": 2, "space": space})
    options = ["--set", f"tune={section}", "--set", "train.epochs=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.compare", "--config", f"{lake}/config.yaml", *options],
        cwd=ROOT,
        env={**os.environ, PLACE: str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def page_of(root: Path) -> str:
    """The page without the seconds per epoch and its own directory."""
    page = (root / "comparison.md").read_text().replace(str(root), "")
    return re.sub(r" \| [\d.]+ \|$", "", page, flags=re.MULTILINE)


def assert_shown(output: str, root: Path) -> None:
    """A terminal and the page show what the reports say."""
    page = (root / "comparison.md").read_text()
    shown = dict(re.findall(r"^  (\S+) test auc +(\S+) ± \S+$", output, re.MULTILINE))
    assert list(shown) == list(MODELS)
    for name, auc in shown.items():
        reports = [json.loads(p.read_text()) for p in root.glob(f"{name}/*/reports/*/report.json")]
        assert len(reports) == len(SEEDS)
        assert auc == f"{sum(report['auc'] for report in reports) / len(SEEDS):.4f}"
        assert f"| {name} | {auc} ± " in page
    for rival in RIVALS:
        found = re.search(rf"nfm-\d beside {rival} +(better|within noise|worse)\n", output)
        assert found
        assert re.search(rf"\| {rival} \| .*[| *]{found[1]}\*?\*? \|", page)


def bundles_of(root: Path) -> dict[str, int]:
    """The bundles that are there, and when each was written."""
    found = root.glob("*/seed-*/models/*/manifest.json")
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_kills_of_a_comparison(tmp_path: Path, chance: random.Random) -> None:
    write_raw(tmp_path / "raw", raw_table(1000))
    write_config(tmp_path)
    began = time.monotonic()
    undisturbed = start(tmp_path, tmp_path / "undisturbed")  # which builds the features
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    assert_shown(output, tmp_path / "undisturbed")
    seconds = time.monotonic() - began

    root = tmp_path / "killed"
    for _ in range(KILLS):
        trained = bundles_of(root)
        comparison = start(tmp_path, root)
        time.sleep(chance.uniform(0.2, 0.6) * seconds)
        comparison.send_signal(signal.SIGKILL)
        comparison.wait()
        wait_until(lambda: not processes_of(root), "all processes to end")
        assert trained.items() <= bundles_of(root).items()  # nothing is trained again
    comparison = start(tmp_path, root)
    output, _ = comparison.communicate()
    assert comparison.returncode == 0, output
    assert page_of(root) == page_of(tmp_path / "undisturbed")
