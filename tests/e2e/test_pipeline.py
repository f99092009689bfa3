"""The four jobs in order on a few thousand rows, and every way in which they may refuse."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from conf.manifest import read_manifest
from jobs import backfill, build_features, evaluate, lake, pipeline, score, train
from nfm.bundle import load_bundle
from nfm.epoch_plan import Block
from nfm.objective import probability
from nfm.predict import predict_logits
from nfm.stream import stream_batches
from tests.data import DS, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import JobCaller, Outcome

ROWS = 2200
BY_RMSE = ("--set", "train.early_stopping.metric=rmse")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipeline")
    table = raw_table(ROWS)
    write_raw(root / "raw", table)
    write_raw(root / "tonight" / f"ds={DS}", table.drop_columns("clicked"))
    write_config(root)
    return root


@pytest.fixture
def job(
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    root: Path,
) -> JobCaller:
    return JobCaller(monkeypatch, capsys, root / "config.yaml")


@pytest.fixture
def done(job: JobCaller, root: Path) -> Outcome:
    """The outcome of the whole pipeline, which runs once."""
    kept = root / "outcome.json"
    if not kept.exists():
        outcome = job(pipeline, "--ds", DS)
        kept.write_text(json.dumps(outcome.__dict__))
    return Outcome(**json.loads(kept.read_text()))


@pytest.fixture
def spoiled(done: Outcome, root: Path) -> Iterator[Path]:
    """The outputs of the pipeline, put back after a test has spoiled them."""
    kept = root.with_name("kept")
    shutil.copytree(root, kept)
    yield root
    shutil.rmtree(root)
    kept.rename(root)


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_pipeline_leaves_what_it_promises(done: Outcome, root: Path) -> None:
    assert done.code == 0, done.err
    table = done.out
    for stage, rows in (("build_features", ROWS), ("score", ROWS)):
        assert re.search(rf"^{stage} +{rows:,} +{rows:,} ", table, re.MULTILINE), table
    for path in ("features/v1", "models/", "reports/", f"scores/ds={DS}"):
        assert f"{root}/{path}" in table
    found = re.search(r"test auc +(0\.\d+)", table)
    assert found
    assert float(found[1]) > 0.6, "the taste in the table was not learnt"
    assert re.search(r"test logloss +0\.\d+", table)
    (bundle,) = (root / "models").iterdir()
    (work,) = (root / "work").iterdir()
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(len(lines)))
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert list((work / "tensorboard").glob("events.out.tfevents.*"))
    saved = [root / "features/v1/config.yaml", bundle / "config.yaml", work / "config.yaml"]
    saved += root.glob("reports/*/config.yaml")
    texts = [path.read_text() for path in saved]
    texts.append(json.loads((root / f"scores/ds={DS}/_manifest.json").read_text())["config"])
    assert len(texts) == 5
    assert all(yaml.safe_load(text)["name"] == "clicks" for text in texts)


def test_served_scores_equal_trained_predictions_to_the_last_bit(done: Outcome, root: Path) -> None:
    (path,) = (root / "models").iterdir()
    bundle = load_bundle(str(path))
    manifest = read_manifest(f"{root}/features/v1")
    files = [f for split in manifest.splits.values() for f in split.files]
    paths = [f"{root}/features/v1/{file.path}" for file in files]
    blocks = [Block((number,), file.rows, None) for number, file in enumerate(files)]
    logits = [
        predict_logits(bundle, batch.ids_BS, batch.x_BS).astype(np.float64)
        for batch in stream_batches(blocks, paths, manifest.fields, batch_rows=500)
    ]
    served = pq.read_table(root / f"scores/ds={DS}")
    expected = np.sort(probability(np.concatenate(logits)))
    np.testing.assert_array_equal(np.sort(served["score"].to_numpy()), expected)
    assert set(served["model_id"].to_pylist()) == {path.name}
    # the keys go with their scores: the raw table's labels agree with them
    labels = {
        (row["user"], row["item"]): row["clicked"]
        for row in pq.read_table(root / "raw", columns=["user", "item", "clicked"]).to_pylist()
    }
    rows = served.to_pylist()
    found = np.array([labels[row["user"], row["item"]] for row in rows], dtype=np.float64)
    assert roc_auc_score(found, served["score"].to_numpy()) > 0.6


def test_the_report_is_that_of_all_test_rows(done: Outcome, root: Path) -> None:
    (path,) = root.glob("reports/*-test/report.json")
    report = json.loads(path.read_text())
    split = read_manifest(f"{root}/features/v1").splits["test"]
    assert (report["rows"], report["positives"]) == (split.rows, split.positives)
    assert f"{report['auc']:.4f}" in done.out


def test_the_bundle_holds_the_best_epoch(done: Outcome, job: JobCaller, root: Path) -> None:
    (work,) = (root / "work").iterdir()
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    (path,) = root.glob("models/*/metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["auc"] == max(line["valid_auc"] for line in lines)
    assert metrics["auc"] == lines[metrics["best_epoch"]]["valid_auc"]
    sets = (
        "evaluate.split=valid",
        "evaluate.segments=[device, age, tags, price]",
        "evaluate.group_by=user",
    )
    outcome = job(evaluate, *(part for item in sets for part in ("--set", item)), "--overwrite")
    assert outcome.code == 0, outcome.err
    (report,) = root.glob("reports/*-valid/report.json")
    found = json.loads(report.read_text())
    assert {name: found[name] for name in ("auc", "logloss", "rmse")} == pytest.approx(
        {name: metrics[name] for name in ("auc", "logloss", "rmse")}, abs=1e-6
    )
    valid = pq.read_table(f"{root}/features/v1/valid").to_pandas()
    devices = {row["value"]: (row["rows"], row["positives"]) for row in found["segments"]["device"]}
    assert devices.keys() == {"a", "b", "c", "missing"}
    nowhere = valid[valid["device"] == 0]
    assert devices["missing"] == (len(nowhere), nowhere["label"].sum())
    assert sum(rows for rows, _ in devices.values()) == len(valid)
    assert sum(row["rows"] for row in found["reliability"]) == len(valid)
    held = Counter(tag for tags in valid["tags"] for tag in {int(tag) for tag in tags} - {-1})
    tags = [row["rows"] for row in found["segments"]["tags"]]
    assert tags == sorted(held.values(), reverse=True)
    prices = [row["rows"] for row in found["segments"]["price"]]
    assert sum(prices) == len(valid)
    assert max(prices) < len(valid) / 5  # a tenth, and the rows without a price
    assert re.search(r"^  device missing +auc 0\.\d{4}, rmse ", outcome.out, re.MULTILINE)
    assert re.search(r"^  valid gauc_keys +\d+$", outcome.out, re.MULTILINE)


def test_a_bundle_is_a_base_to_build_from(done: Outcome, job: JobCaller, root: Path) -> None:
    (bundle,) = (root / "models").iterdir()
    arguments = ("--dry-run", "--overwrite", "--base", str(bundle))
    outcome = job(build_features, *arguments)
    assert outcome.code == 0, outcome.err
    outcome = job(build_features, *arguments, "--set", "fields.4.num_buckets=5")
    assert (outcome.code, "field 'age': fitting is" in outcome.err) == (2, True), outcome


def test_a_training_begins_from_a_bundle(
    done: Outcome, job: JobCaller, root: Path, tmp_path: Path
) -> None:
    (before,) = (root / "models").iterdir()
    sets = ["train.epochs=1", "train.optimizer.learning_rate=1e-9", "model.name=fnn"]
    sets += [f"train.path={tmp_path}/models", f"train.work_path={tmp_path}/work"]
    options = [part for item in sets for part in ("--set", item)]
    begin = ("--num-workers", "1", "--init-from", str(before))
    outcome = job(train, *options, *begin)
    assert outcome.code == 0, outcome.err
    (after,) = (tmp_path / "models").iterdir()
    theirs, ours = load_bundle(str(before)), load_bundle(str(after))
    rows = len(ours.table_VD)
    assert f"{rows} of {rows} embeddings from '{before.name}'" in outcome.err
    torch.testing.assert_close(ours.table_VD, theirs.table_VD, atol=1e-6, rtol=0)
    assert (ours.config.model.name, ours.config.train.init_from) == ("fnn", str(before))
    other = job(train, *options, *begin, "--set", "model.embedding_dim=4")
    assert (other.code, "set model.embedding_dim=8, or train without" in other.err) == (2, True)


def test_scoring_again_gives_the_same_partition(done: Outcome, job: JobCaller, root: Path) -> None:
    def published() -> pa.Table:
        table = pq.read_table(root / f"scores/ds={DS}", columns=["user", "item", "score"])
        return table.sort_by([("user", "ascending"), ("item", "ascending")])

    before = published()
    assert job(score, "--ds", DS).code == 0
    assert published().equals(before)


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("build_features", ("--overwrite",), "tags: multi_valued of tags"),
        ("train", ("--num-workers", "3"), "worker 2: 1 files"),
        ("evaluate", ("--set", "evaluate.split=train"), "rows of 'train'"),
        ("score", ("--ds", DS), f"{ROWS:,} rows"),
        ("pipeline", ("--ds", DS, "--overwrite", "--set", "score.table=l.scores"), "-> l.scores"),
    ],
)
def test_a_dry_run_prints_the_plan_and_touches_nothing(
    done: Outcome, job: JobCaller, root: Path, name: str, arguments: tuple[str, ...], shown: str
) -> None:
    modules = {m.__name__: m for m in (build_features, train, evaluate, score, pipeline)}
    before = snapshot(root)
    outcome = job(modules[f"jobs.{name}"], "--dry-run", *arguments)
    assert outcome.code == 0, outcome.err
    assert shown in outcome.out
    assert snapshot(root) == before


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("name", "arguments", "code", "message"),
    [
        ("train", ("--config", "no.yaml"), 2, "config file 'no.yaml'"),
        ("train", ("--set", "train.epohcs=1"), 2, "did you mean 'epochs'?"),
        ("train", ("--set", "train.epochs=a"), 2, "train.epochs"),
        ("train", ("--num-workers", "0"), 2, "num_workers"),
        ("train", ("--set", "train.batch_size=1"), 2, "less than one row for each of 2"),
        ("train", ("--set", "features.path=none"), 3, "no manifest at"),
        ("build_features", (), 2, "exists; say --overwrite"),
        (
            "build_features",
            ("--overwrite", "--set", "raw.path=none"),
            2,
            "raw table 'none' does not exist",
        ),
        (
            "build_features",
            ("--overwrite", "--set", "fields.2.column=nope"),
            3,
            "column 'nope' (wanted by 'device') is not in the raw table",
        ),
        (
            "build_features",
            ("--overwrite", "--set", "label.column=device"),
            3,
            "label 'device' is string",
        ),
        ("train", ("--set", "task=regression", *BY_RMSE), 2, "are not those that"),
        ("train", ("--set", "weight=age"), 2, "are not those that"),
        ("evaluate", (), 2, "exists; say --overwrite"),
        ("evaluate", ("--bundle", "nope"), 2, "no bundle 'nope'"),
        ("evaluate", ("--overwrite", "--set", "features.path=none"), 3, "no manifest at"),
        ("score", ("--ds", "yesterday"), 2, "invalid day value: 'yesterday'"),
        ("score", ("--ds", DS, "--set", "score.raw.path=none"), 2, "'none' does not exist"),
        ("score", ("--ds", "2026-09-09"), 3, "rows: at least 1 expected, 0 found"),
    ],
)
def test_bad_input_ends_with_its_code_and_leaves_outputs_untouched(
    done: Outcome,
    job: JobCaller,
    root: Path,
    name: str,
    arguments: tuple[str, ...],
    code: int,
    message: str,
    dry_run: tuple[str, ...],
) -> None:
    modules = {m.__name__: m for m in (build_features, train, evaluate, score)}
    before = snapshot(root)
    outcome = job(modules[f"jobs.{name}"], *arguments, *dry_run)
    assert (outcome.code, message in outcome.err) == (code, True), outcome
    assert "Traceback" not in outcome.err
    assert snapshot(root) == before


def test_a_breach_ends_a_build_with_its_code_and_publishes_nothing(
    done: Outcome, job: JobCaller, root: Path
) -> None:
    before = snapshot(root)
    outcome = job(build_features, "--overwrite", "--set", "checks.min_rows=100000")
    assert outcome.code == 3
    assert "rows: at least 100000 expected" in outcome.err
    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("harm", "message"), [("cut", "is damaged"), ("version", "schema version 99")]
)
def test_a_spoiled_manifest_stops_training(
    job: JobCaller, spoiled: Path, harm: str, message: str
) -> None:
    path = spoiled / "features/v1/manifest.json"
    text = path.read_text()
    path.write_text(text[:-100] if harm == "cut" else text.replace('version":1', 'version":99'))
    if harm == "version":
        data = json.loads(text) | {"schema_version": 99}
        path.write_text(json.dumps(data))
    before = snapshot(spoiled)
    outcome = job(train)
    assert (outcome.code, message in outcome.err) == (3, True), outcome
    assert snapshot(spoiled) == before


def test_a_bundle_refuses_features_of_another_vocabulary(job: JobCaller, spoiled: Path) -> None:
    assert job(build_features, "--overwrite", "--set", "fields.0.min_count=60").code == 0
    before = snapshot(spoiled)
    outcome = job(evaluate, "--overwrite")
    assert (outcome.code, "does not know the ids of" in outcome.err) == (3, True), outcome
    assert snapshot(spoiled) == before


def test_scoring_refuses_a_damaged_bundle(job: JobCaller, spoiled: Path) -> None:
    (weights,) = spoiled.glob("models/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])
    before = snapshot(spoiled)
    for dry_run in ((), ("--dry-run",)):
        outcome = job(score, "--ds", DS, *dry_run)
        assert (outcome.code, "is half-copied" in outcome.err) == (3, True), outcome
    assert snapshot(spoiled) == before


def test_a_weighted_regression_goes_all_the_way(
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    table = raw_table(800)
    value = pa.array(np.asarray(table["clicked"]) * 10.0 + 20.0)
    table = table.append_column("spent", value)
    table = table.append_column("importance", [np.arange(800) % 3])
    write_raw(tmp_path / "raw", table)
    write_raw(tmp_path / "tonight" / f"ds={DS}", table.drop_columns(["spent", "importance"]))
    call = JobCaller(monkeypatch, capsys, write_config(tmp_path))
    sets = ["task=regression", "label.column=spent", "train.early_stopping.metric=rmse"]
    sets += ["weight=importance", "train.optimizer.learning_rate=1.0", "train.epochs=12"]
    arguments = [part for item in sets for part in ("--set", item)]
    outcome = call(pipeline, "--ds", DS, *arguments, "--num-workers", "1")
    assert outcome.code == 0, outcome.err
    assert re.search(r"test rmse +\d+\.\d{4}", outcome.out)
    scores = pq.read_table(tmp_path / f"scores/ds={DS}")["score"].to_numpy()
    assert len(scores) == 800
    (path,) = tmp_path.glob("reports/*/report.json")
    assert "auc" not in json.loads(path.read_text())
    assert scores.min() >= 20, "the least label of the training rows"
    assert 5 < scores.max() <= 30, "a value, no probability; at most the greatest label"


def test_a_pipeline_checks_the_score_table_before_it_starts(
    job: JobCaller, done: Outcome, root: Path
) -> None:
    before = snapshot(root)
    for dry_run in ((), ("--dry-run",)):
        outcome = job(pipeline, "--overwrite", "--ds", "2026-09-09", *dry_run)
        assert (outcome.code, "rows: at least 1 expected, 0 found" in outcome.err) == (3, True), (
            outcome
        )
    assert snapshot(root) == before


def test_scoring_refuses_a_bundle_with_a_changed_vocabulary(job: JobCaller, spoiled: Path) -> None:
    (path, *_) = (spoiled / "models").glob("*/vocabulary/*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    before = snapshot(spoiled)
    outcome = job(score, "--ds", DS)
    assert (outcome.code, "copy it again" in outcome.err) == (3, True), outcome
    assert snapshot(spoiled) == before


def test_a_backfill_goes_on_after_a_day_that_fails(job: JobCaller, spoiled: Path) -> None:
    third, fourth = "2026-01-03", "2026-01-04"  # the fourth has no rows
    write_raw(spoiled / f"tonight/ds={third}", raw_table(300, seed=1).drop_columns("clicked"))
    before = snapshot(spoiled)
    days = ("--from", DS, "--to", fourth, "--only-missing", "--parallel", "2")
    plan = job(backfill, "--from", DS, "--to", third, "--only-missing", "--dry-run")
    assert plan.code == 0, plan.err
    (bundle,) = (spoiled / "models").glob("2*")
    assert plan.out.splitlines()[0] == f"skip: {DS} has scores of {bundle.name}"
    assert plan.out.splitlines()[1].startswith("score: 300 rows of ")
    assert snapshot(spoiled) == before
    outcome = job(backfill, *days)
    assert outcome.code == 3, outcome
    assert "error: 1 of 3 days failed" in outcome.err
    table = [line.split(maxsplit=3) for line in outcome.out.splitlines()[-3:]]
    assert [(row[0], row[1]) for row in table] == [(DS, "-"), (third, "300"), (fourth, "-")]
    assert [row[3] for row in table[:2]] == [f"skipped: has scores of {bundle.name}", "published"]
    assert table[2][3].startswith("failed: ")
    old = f"{spoiled}/scores/ds={DS}/"
    assert all(snapshot(spoiled)[path] == before[path] for path in before if path.startswith(old))
    assert not list(spoiled.glob("scores/.*")) + list(spoiled.glob(f"scores/ds={fourth}"))
    backfilled = scores_of(spoiled, third)
    assert job(score, "--ds", third).code == 0
    assert scores_of(spoiled, third) == backfilled
    shown = job(lake, "show", "--ds", third)
    assert shown.code == 0, shown.err
    assert f"source            {spoiled}/tonight, 300 rows" in shown.out
    assert job(lake, "show", "--ds", fourth).code == 3
    assert job(lake, "vacuum").out == f"vacuum of {spoiled}/scores: 0 removed, 0 bytes\n"


def scores_of(root: Path, ds: str) -> list[tuple[str, int, float]]:
    rows = pq.read_table(root / f"scores/ds={ds}", partitioning=None).to_pylist()
    return sorted((row["user"], row["item"], row["score"]) for row in rows)
