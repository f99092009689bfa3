"""Aliases of bundles, and when another one is due."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conf import publishing
from conf.errors import ConfigError, DataError, RunError
from jobs import models as job_models
from nfm.registry import (
    Promotion,
    bundles,
    promote,
    read_alias,
    resolve_bundle,
    resolve_start,
    roll_back,
)
from tests.data import write_config
from tests.e2e.jobs_under_test import JobCaller


@pytest.fixture
def job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> JobCaller:
    return JobCaller(monkeypatch, capsys, write_config(tmp_path))


def named(model_id: str) -> Promotion:
    return Promotion(model_id=model_id, since="2026-01-01T00:00:00", reason="promoted", gate=None)


def test_of_two_promotions_at_once_one_wins(tmp_path: Path) -> None:
    models = str(tmp_path)
    promote(models, "serving", named("a"), None)
    with pytest.raises(RunError, match="was changed by another run meanwhile"):
        promote(models, "serving", named("b"), None)
    with (
        publishing.only_run(f"{models}/_aliases/serving.json"),
        pytest.raises(RunError, match="another run"),
    ):
        promote(models, "serving", named("b"), "a")
    found = read_alias(models, "serving")
    assert found is not None
    assert (found.model_id, found.earlier) == ("a", [])


def test_a_rollback_never_leads_to_the_bundle_that_serves(tmp_path: Path) -> None:
    models, before = str(tmp_path), None
    for model_id in "cabad":
        (tmp_path / model_id).mkdir(exist_ok=True)
        (tmp_path / model_id / "bundle.json").write_text("{}")
        promote(models, "serving", named(model_id), before)
        before = model_id
    assert roll_back(models, "serving").model_id == "a"
    shutil.rmtree(tmp_path / "b")
    assert roll_back(models, "serving").model_id == "c"
    with pytest.raises(ConfigError, match="there is nothing to go back to"):
        roll_back(models, "serving")


# Kills a process that promotes 0, 1, 2, ... at moments of its own, and prints what is left.
KILLS = """
import itertools, json, os, random, signal, sys, time
from nfm.registry import Promotion, promote, read_alias

def promote_for_ever(models):
    alias = read_alias(models, "serving")
    for number in itertools.count(int(alias.model_id) + 1 if alias else 0):
        made = Promotion(model_id=str(number), since="", reason="r" * 5000, gate=None)
        promote(models, "serving", made, str(number - 1) if number else None)

for _ in range(10):
    child = os.fork()
    if not child:
        promote_for_ever(sys.argv[1])
    before = read_alias(sys.argv[1], "serving")
    while read_alias(sys.argv[1], "serving") == before:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    alias = read_alias(sys.argv[1], "serving")
    print(json.dumps([int(alias.model_id), *(int(past.model_id) for past in alias.earlier)]))
"""


def test_a_promotion_that_is_killed_leaves_the_old_or_the_new_alias(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    left = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(left) == 10
    for newest, *earlier in left:
        assert earlier == list(range(newest - 1, -1, -1))[:50]


def test_the_latest_is_the_one_that_was_trained_last(tmp_path: Path) -> None:
    """A copy by hand, whatever its name, never comes after one that a training named."""
    models = str(tmp_path)
    names = ["20260101T000000-lr-1", "20251231T235959-nfm-2", "serving-backup", "0-old", "2027"]
    for name in names[2:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text("{}")
    assert resolve_bundle(models, "latest") == f"{models}/serving-backup"
    for name in names[:2]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text("{}")
        assert resolve_bundle(models, "latest") == f"{models}/{names[0]}"
    assert bundles(models) == ["0-old", "2027", "serving-backup", names[1], names[0]]
    with pytest.raises(ConfigError, match=r"no bundle 'x' in .*'jobs.models list' says what is"):
        resolve_bundle(models, "x")


def test_names_that_stand_for_no_bundle(tmp_path: Path) -> None:
    models = str(tmp_path)
    with pytest.raises(ConfigError, match=r"'serving' names no bundle in .* yet; promote"):
        resolve_bundle(models, "serving")
    assert resolve_start(models, "serving") is None
    with pytest.raises(ConfigError, match="no bundle in"):
        resolve_start(models, "latest")
    promote(models, "serving", named("a"), None)
    for resolve in (resolve_bundle, resolve_start):
        with pytest.raises(ConfigError, match="names bundle 'a', which is gone"):
            resolve(models, "serving")
    (tmp_path / "_aliases/serving.json").write_text('{"model_id": "a"')
    with pytest.raises(DataError, match=r"serving\.json' is damaged .*promote a bundle"):
        resolve_bundle(models, "serving")


def test_a_training_is_due_when_the_newest_bundle_is_old_enough(
    tmp_path: Path, job: JobCaller
) -> None:
    assert job(job_models, "due").code == 2, "nothing says when"
    nightly = {"schedule": "0 3 * * *", "start": "2026-01-01", "train_every_days": 7}
    options = ("--set", f"nightly={json.dumps(nightly)}")
    assert job(job_models, *options, "due").code == 0
    for days, code in ((8, 0), (7, 0), (6, 99), (0, 99)):
        trained = datetime.now(UTC) - timedelta(days=days)
        bundle = tmp_path / f"models/{trained:%Y%m%dT%H%M%S}-lr-0"
        bundle.mkdir(parents=True)
        (bundle / "bundle.json").write_text("{}")
        due = job(job_models, *options, "due")
        assert due.code == code, due.out + due.err
        assert f"{days} days old" in due.out
        assert job(job_models, *options, "--dry-run", "due").code == 0
    assert "damaged" in job(job_models, *options, "list").out


@pytest.mark.parametrize(
    "arguments", [["promote"], ["list", "x"], ["promote", "x", "--to", "mine"], []]
)
def test_a_command_that_is_none_is_refused(job: JobCaller, arguments: list[str]) -> None:
    assert job(job_models, *arguments).code == 2
