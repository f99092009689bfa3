"""The gate before a model serves, and jobs.models, against weights in dictionaries."""

from pathlib import Path

import pytest
import torch

from conf.errors import DataError
from conf.manifest import FieldSpec
from jobs import models as job_models
from nfm.batch import assemble
from nfm.bundle import Bundle, load_bundle
from nfm.gate import on_features
from nfm.predict import predict_logits
from nfm.registry import read_alias, resolve_bundle
from tests.by_hand import (
    BAD,
    BEFORE,
    GOOD,
    NOW,
    OLD,
    Words,
    auc_by_hand,
    encoded,
    features_of,
    publish,
)
from tests.data import write_config
from tests.e2e.jobs_under_test import JobCaller
from tests.unit.test_batch import field


@pytest.fixture
def job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> JobCaller:
    return JobCaller(monkeypatch, capsys, write_config(tmp_path))


Aucs = dict[str, float]


@pytest.fixture
def aucs(tmp_path: Path) -> Aucs:
    """Three bundles, and features with the vocabulary of the last two; what they come to there."""
    features_of(tmp_path / "features/v1", NOW)
    made = ((OLD, BEFORE, 2), (GOOD, NOW, 4), (BAD, NOW, 9))
    found = {name: auc_by_hand(publish(tmp_path, name, words, n)) for name, words, n in made}
    assert found[GOOD] > found[OLD] > found[BAD]
    return found


def test_a_better_candidate_serves_and_a_worse_one_does_not(
    tmp_path: Path, job: JobCaller, aucs: Aucs
) -> None:
    first = job(job_models, "promote", OLD)
    assert (first.code, first.out) == (0, f"serving: {OLD}, promoted; before: none\n"), first.err
    better = job(job_models, "promote", GOOD)
    assert better.code == 0, better.err
    assert f"at least {aucs[OLD] - 0.002:.4f} ({OLD} has {aucs[OLD]:.4f}) expected" in better.out
    assert f"{aucs[GOOD]:.4f} found" in better.out
    serving = read_alias(f"{tmp_path}/models", "serving")
    assert serving is not None
    assert serving.gate is not None
    found = {name: metrics["auc"] for name, metrics in serving.gate.metrics.items()}
    assert found == pytest.approx({name: aucs[name] for name in (OLD, GOOD)})
    before = (tmp_path / "models/_aliases/serving.json").read_bytes()
    for options in (["--dry-run"], []):
        worse = job(job_models, "promote", "latest", *options)
        assert worse.code == 3
        assert f"'{BAD}' does not pass the gate on 7 rows of 'test'" in worse.err
        assert f"({GOOD} has {aucs[GOOD]:.4f}) expected, {aucs[BAD]:.4f} found" in worse.err
        assert (tmp_path / "models/_aliases/serving.json").read_bytes() == before
        assert (tmp_path / f"reports/{BAD}-gate.json").exists() == (not options)
    assert job(job_models, "promote", GOOD).out == f"serving: {GOOD}, as it was\n"


def test_force_is_recorded_and_rollbacks_go_back_step_by_step(
    tmp_path: Path, job: JobCaller, aucs: Aucs
) -> None:
    for options in ([OLD], [GOOD], [BAD, "--force"], [GOOD, "--to", "candidate"]):
        outcome = job(job_models, "promote", *options)
        assert outcome.code == 0, outcome.err
    listing = job(job_models, "list").out
    (row,) = (line for line in listing.splitlines() if line.startswith(BAD))
    assert row.split()[1:7] == ["lr", "serving", "2026-02-02", "00:00", "auc", "0.7900"]
    assert "failed: 0.6667 for at least 0.8313" in row
    assert f"serving: {BAD}, forced, since 20" in listing
    assert f"  before: {GOOD}, {OLD}\ncandidate: {GOOD}, promoted" in listing
    would = job(job_models, "--dry-run", "rollback").out
    assert would == f"serving: would go back to {GOOD}, then {OLD}\n"
    for name, last in ((GOOD, BAD), (OLD, GOOD)):
        back = job(job_models, "rollback")
        assert (back.code, back.out) == (0, f"serving: {name}, rolled back from {last}\n")
        assert resolve_bundle(f"{tmp_path}/models", "serving") == f"{tmp_path}/models/{name}"
    none = job(job_models, "rollback")
    assert none.code == 2
    assert "named no bundle before this one" in none.err


def test_the_bar_holds_whatever_serves(job: JobCaller, aucs: Aucs) -> None:
    bar = ("--set", "promote.bar=0.8")
    low = job(job_models, *bar, "promote", OLD)
    assert low.code == 3
    assert "auc against the bar" in low.err
    assert "'serving' names no bundle as before" in low.err
    assert job(job_models, *bar, "promote", GOOD).code == 0
    falling = ("--set", "promote.metric=logloss", "--set", "promote.bar=0.0001")
    assert "at most 0.0001 expected" in job(job_models, *falling, "promote", OLD).err


def test_what_cannot_be_compared_is_promoted_by_force_alone(
    tmp_path: Path, job: JobCaller, aucs: Aucs
) -> None:
    assert job(job_models, "promote", OLD).code == 0
    (tmp_path / "models" / OLD).rename(tmp_path / OLD)
    gone = job(job_models, "promote", GOOD)
    assert gone.code == 2
    assert f"'serving' names bundle '{OLD}', which is gone" in gone.err
    assert f"serving: {OLD}, which is gone, promoted" in job(job_models, "list").out
    forced = job(job_models, "promote", GOOD, "--force")
    assert forced.code == 0, forced.err
    assert "no gate could be held" in forced.out
    (tmp_path / "models" / BAD / "model.safetensors").write_bytes(b"")
    damaged = job(job_models, "promote", BAD, "--force")
    assert (damaged.code, "is half-copied" in damaged.err) == (3, True)
    elsewhere = job(job_models, "promote", str(tmp_path / OLD))
    assert (elsewhere.code, "copy" in elsewhere.err) == (2, True)
    back = job(job_models, "rollback")
    assert back.code == 2, "the bundle before is gone"
    assert resolve_bundle(f"{tmp_path}/models", "serving").endswith(GOOD)


def logits(bundle: Bundle, words: Words, *more: FieldSpec) -> list[float]:
    ids, x = assemble(encoded(words, *more), bundle.manifest.fields)
    found: list[float] = predict_logits(bundle, torch.from_numpy(ids), torch.from_numpy(x)).tolist()
    return found


@pytest.mark.parametrize("name", ["nfm", "fnn"])
def test_a_bundle_predicts_alike_in_the_ids_of_other_features(tmp_path: Path, name: str) -> None:
    publish(tmp_path, OLD, BEFORE, 0, f"model.name={name}")
    path = f"{tmp_path}/models/{OLD}"
    bundle = load_bundle(path)
    pools = name == "nfm"  # then fields may come in any order, and new ones
    words = NOW if pools else {key: NOW[key] for key in BEFORE}
    more = [field("new", "bucketised", 3, 0)] if pools else []
    manifest = features_of(tmp_path / "now", words, *more)
    seen = on_features(bundle, path, manifest, f"{tmp_path}/now")
    assert logits(seen, words, *more) == pytest.approx(logits(bundle, BEFORE), abs=1e-6)
    own = bundle.manifest
    assert on_features(bundle, path, own, f"{tmp_path}/trained/{OLD}") is bundle


@pytest.mark.parametrize(
    ("model", "words", "change", "problem"),
    [
        ("lr", {"user": ["ann"], "tags": ["x"]}, {"task": "regression"}, "for a regression task"),
        ("lr", {"user": ["ann"], "tags": ["x"]}, {"seed": 3}, "encode its field 'tags' otherwise"),
        ("lr", {"user": ["ann"]}, {}, "lack its field 'tags'"),
        ("fnn", NOW, {}, "have other fields, or in another order"),
    ],
)
def test_features_that_say_too_little_are_refused(
    tmp_path: Path, model: str, words: Words, change: dict[str, object], problem: str
) -> None:
    publish(tmp_path, OLD, BEFORE, 0, f"model.name={model}")
    path = f"{tmp_path}/models/{OLD}"
    now = features_of(tmp_path / "now", words)
    if "seed" in change:
        fields = [*now.fields[:-1], now.fields[-1].model_copy(update=change)]
        change = {"fields": fields}
    with pytest.raises(DataError, match=problem):
        on_features(load_bundle(path), path, now.model_copy(update=change), f"{tmp_path}/now")
