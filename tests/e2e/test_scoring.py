"""A day's scores as jobs.score publishes them: what can be asked for, and what is refused."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from conf.manifest import MISSING, PADDING, UNKNOWN
from jobs import build_features, lake, score, train
from nfm.bundle import load_bundle
from nfm.predict import Scorer
from tests.data import DS, raw_table, write_config, write_raw
from tests.e2e.jobs_under_test import JobCaller, Outcome

ROWS = 600
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scoring")
    write_raw(root / "raw", raw_table(ROWS))
    write_raw(root / "tonight" / f"ds={DS}", raw_table(ROWS).drop_columns("clicked"))
    write_config(root)
    return root


@pytest.fixture
def job(
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    root: Path,
) -> JobCaller:
    call = JobCaller(monkeypatch, capsys, root / "config.yaml")
    if not (root / "models").exists():
        for made in (call(build_features), call(train, "--num-workers", "1")):
            assert made.code == 0, made.err
    return call


def settings(root: Path, **values: object) -> list[str]:
    """Options that set these keys of the score section, and a lake of their own."""
    values = {"path": f"{root}/lake-{len(list(root.glob('lake-*')))}"} | values
    return [part for key, v in values.items() for part in ("--set", f"score.{key}={json.dumps(v)}")]


def scores(outcome: Outcome) -> Rows:
    """The rows of the partition that a job says it wrote."""
    assert outcome.code == 0, outcome.err
    return pq.read_table(partition(outcome)).to_pylist()


def partition(outcome: Outcome) -> Path:
    (line,) = (line for line in outcome.out.splitlines() if line.startswith("score: "))
    return Path(line.removeprefix("score: "))


def manifest(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((partition(outcome) / "_manifest.json").read_text())
    return found


def tonight(root: Path, table: pa.Table) -> dict[str, str]:
    """Another table for the day, as a setting."""
    path = root / f"raw-{len(list(root.glob('raw-*')))}"
    write_raw(path / f"ds={DS}", table)
    return {"raw": {"path": str(path)}}


def test_kept_columns_calibration_and_explanations(job: JobCaller, root: Path) -> None:
    plain = job(score, "--ds", DS, *settings(root, columns=["price", "tags"]))
    rows = scores(plain)
    raw = {(r["user"], r["item"]): r for r in raw_table(ROWS).to_pylist()}
    assert len(rows) == len(raw) == ROWS
    for row in rows:
        assert {"price", "tags"} <= row.keys()
        origin = raw[row["user"], row["item"]]
        assert (row["price"], row["tags"]) == (origin["price"], origin["tags"])
    (path,) = (root / "models").glob("2*")
    reference = load_bundle(str(path)).scores
    by_key = {(row["user"], row["item"]): row["score"] for row in rows}
    for kind in ("isotonic", "platt"):
        calibrated = scores(job(score, "--ds", DS, *settings(root, calibration=kind)))
        found = np.array([row["score"] for row in calibrated])
        before = np.array([by_key[row["user"], row["item"]] for row in calibrated])
        logits = np.log(before / (1 - before))
        np.testing.assert_allclose(found, reference.calibrate(kind, logits), atol=1e-6)
        assert (np.diff(found[np.argsort(before)]) >= 0).all(), "order is kept"
    explained = scores(job(score, "--ds", DS, *settings(root, explain=4)))
    fields = {"user", "item", "device", "price", "age", "tags"}
    for row in explained:
        assert row["score"] == by_key[row["user"], row["item"]]
        sizes = [abs(part["contribution"]) for part in row["explanation"]]
        assert len(sizes) == 4
        assert sizes == sorted(sizes, reverse=True)
        assert {part["first"] for part in row["explanation"]} <= fields


def test_a_key_of_another_type_than_the_day_before_is_refused(job: JobCaller, root: Path) -> None:
    lake, table = f"{root}/lake-of-types", raw_table(ROWS).drop_columns("clicked")
    at, item = table.column_names.index("item"), table["item"]
    texts = table.set_column(at, "item", item.cast(pa.string()))
    first = job(score, "--ds", DS, *settings(root, path=lake, **tonight(root, table)))
    assert manifest(first)["columns"]["item"] == "int64"
    write_raw(root / "raw-of-next" / "ds=2026-01-03", texts)
    sets = settings(root, path=lake, raw={"path": f"{root}/raw-of-next"})
    refused = job(score, "--ds", "2026-01-03", *sets)
    told = f"types of {DS} of 'item': int64 expected, string found"
    assert (refused.code, told in refused.err) == (3, True), refused.err
    forced = job(score, "--ds", "2026-01-03", "--force", *sets)
    assert manifest(forced)["columns"]["item"] == "string"


def test_the_best_rows_of_each_user(job: JobCaller, root: Path) -> None:
    everything = defaultdict(list)
    for row in scores(job(score, "--ds", DS, *settings(root))):
        everything[row["user"]].append((-row["score"], row["item"]))
    best = {(user, item) for user, rows in everything.items() for _, item in sorted(rows)[:3]}
    outcome = job(score, "--ds", DS, "--top-k", "3", "--by", "user", *settings(root))
    kept = scores(outcome)
    assert {(row["user"], row["item"]) for row in kept} == best
    assert len(kept) == len(best)
    assert (manifest(outcome)["source"]["rows"], manifest(outcome)["rows"]) == (ROWS, len(kept))
    refused = job(score, "--ds", DS, "--top-k", "3", *settings(root))
    assert (refused.code, "top_k and by go together" in refused.err) == (2, True), refused
    # The keys are the bundle's, whatever the configuration says by now.
    others = ("--set", "keys=[age]", *settings(root))
    refused = job(score, "--ds", DS, "--top-k", "3", "--by", "age", *others)
    told = "'age' is none of the keys user, item" in refused.err
    assert (refused.code, told) == (2, True), refused
    assert job(score, "--ds", DS, "--top-k", "3", "--by", "user", "--dry-run", *others).code == 0


def first_of_each(table: pa.Table, key: str, columns: list[str]) -> pa.Table:
    """The first row of each value of a column."""
    seen: dict[Any, dict[str, Any]] = {}
    for row in table.select(columns).to_pylist():
        seen.setdefault(row[key], row)
    return pa.Table.from_pylist(list(seen.values()), table.select(columns).schema)


def test_candidates_have_the_scores_of_their_rows(job: JobCaller, root: Path) -> None:
    """Of each user the items that he has not seen, against these pairs written down as rows."""
    table = raw_table(ROWS)
    users = first_of_each(table, "user", ["user", "device", "age"])
    items = first_of_each(table, "item", ["item", "price", "tags"])
    write_raw(root / "items", items)
    write_raw(root / "seen", table.select(["user", "item"]))
    tables = {"items": {"path": f"{root}/items"}, "seen": {"path": f"{root}/seen"}}
    pairing = {"candidates": {"user": ["user"], "item": ["item"], **tables}}
    asked = ("--candidates", "cross", "--force")
    sets = settings(root, **tonight(root, users), **pairing)
    cross = job(score, "--ds", DS, *asked, *sets)
    found = {(row["user"], row["item"]): row["score"] for row in scores(cross)}
    seen = set(zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True))
    pairs = [u | i for u in users.to_pylist() for i in items.to_pylist()]
    pairs = [pair for pair in pairs if (pair["user"], pair["item"]) not in seen]
    schema = pa.schema([*users.schema, *items.schema])
    written = tonight(root, pa.Table.from_pylist(pairs, schema))
    by_rows = scores(job(score, "--ds", DS, "--force", *settings(root, **written)))
    assert found == {(row["user"], row["item"]): row["score"] for row in by_rows}
    assert manifest(cross)["rows"] == len(found) == len(pairs) > ROWS
    sides = f"({len(users):,}) x {root}/items ({len(items):,})"
    assert manifest(cross)["source"]["name"].endswith(sides)

    best = scores(job(score, "--ds", DS, *asked, "--top-k", "2", "--by", "user", *sets))
    of_user = defaultdict(list)
    for (user, item), value in found.items():
        of_user[user].append((-value, item))
    assert {(row["user"], row["item"]) for row in best} == {
        (user, item) for user, rows in of_user.items() for _, item in sorted(rows)[:2]
    }
    refused = job(score, "--ds", DS, "--candidates", "cross", *settings(root))
    assert (refused.code, "needs score.candidates" in refused.err) == (2, True), refused


def test_rows_of_which_nothing_is_known(job: JobCaller, root: Path) -> None:
    """Published only if somebody insists; and then like a row of unknown values each."""
    numbers = range(50)
    table = pa.table(
        {
            "user": [f"stranger {n}" for n in numbers],
            "item": [10_000 + n for n in numbers],
            "device": [f"device {n}" for n in numbers],
            "price": pa.nulls(50, pa.float64()),
            "age": pa.nulls(50, pa.int32()),
            "tags": [[f"tag {n}"] for n in numbers],
        }
    )
    sets = settings(root, **tonight(root, table))
    refused = job(score, "--ds", DS, *sets)
    for told in ("unknown share of 'user'", "missing share of 'price'"):
        line = f"fail: rise of {told}: warns at 0.1, fails at 0.5 expected, "
        assert (refused.code, line in refused.err) == (3, True), refused
    forced = job(score, "--ds", DS, "--force", *sets)
    assert manifest(forced)["forced"] is True
    failed = [check["of"] for check in manifest(forced)["checks"] if check["outcome"] == "fail"]
    assert failed == table.column_names
    assert "6 of " in refused.err
    (path,) = (root / "models").glob("2*")
    stranger = {
        **{name: np.array([UNKNOWN], np.int32) for name in ("user", "item", "device")},
        "price": np.zeros(1, np.float32),
        "age": np.array([MISSING], np.int32),
        "tags": np.array([[UNKNOWN, PADDING, PADDING]], np.int32),
    }
    (expected,) = Scorer(load_bundle(str(path)), "none", 0)(stranger)["score"]
    assert [row["score"] for row in scores(forced)] == [expected] * 50


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop_columns("device"), "column 'device' (wanted by 'device') is not in"),
        (lambda t: t.drop_columns("user"), "column 'user' (wanted by 'user') is not in the raw"),
        (
            lambda t: t.set_column(4, "age", t["age"].cast(pa.string())),
            "'age' is string, but kind 'bucketised' expects a number",
        ),
        (lambda t: pa.concat_tables([t, t.slice(0, 3)]), "fail: keys are unique of 'user, item'"),
        (lambda t: t.slice(0, 0), "fail: rows: at least 1 expected, 0 found"),
    ],
)
def test_a_table_that_is_not_as_it_was_is_refused(
    job: JobCaller, root: Path, change: Any, told: str
) -> None:
    sets = settings(root, gates={"duplicate_keys": "fail"})
    lake = Path(sets[1].partition("=")[2].strip('"'))
    before = job(score, "--ds", DS, *sets)
    assert before.code == 0, before.err
    files = sorted(path.name for path in lake.rglob("*"))
    spoiled = tonight(root, change(raw_table(ROWS)))
    refused = job(score, "--ds", DS, *sets, "--set", f"score.raw={json.dumps(spoiled['raw'])}")
    assert (refused.code, told in refused.err) == (3, True), refused
    assert "Traceback" not in refused.err
    assert sorted(path.name for path in lake.rglob("*")) == files


def test_what_may_be_missing(job: JobCaller, root: Path) -> None:
    """An optional column, which the gates tell of; keys that are not unique; all of a day."""
    table = pa.concat_tables([raw_table(ROWS), raw_table(ROWS).slice(0, 3)]).drop_columns("device")
    sets = settings(root, **tonight(root, table), optional=["device"])
    outcome = job(score, "--ds", DS, *sets)
    assert len(scores(outcome)) == ROWS + 3
    told = {(c["check"], c["of"]): c["outcome"] for c in manifest(outcome)["checks"]}
    assert told["rise of missing share", "device"] == "warn"
    assert told["keys are unique", "user, item"] == "warn"
    # In the same lake, whose partition becomes an empty one.
    empty = tonight(root, raw_table(ROWS).slice(0, 0))
    sets += ["--set", f"score.raw={json.dumps(empty['raw'])}", "--set", "score.gates.min_rows=0"]
    outcome = job(score, "--ds", DS, *sets)
    assert scores(outcome) == []
    assert pq.read_schema(next(partition(outcome).glob("*.parquet"))).names == [
        *("user", "item", "score", "model_id", "scored_at"),
    ]


def test_yesterday_is_compared_with(job: JobCaller, root: Path) -> None:
    table = raw_table(ROWS).drop_columns("clicked")
    path = root / "two-days"
    write_raw(path / "ds=2026-03-01", table)
    write_raw(path / "ds=2026-03-02", pa.concat_tables([table.slice(0, 1)] * ROWS))
    sets = settings(root, raw={"path": str(path)}, gates={"duplicate_keys": "ignore"})
    first = job(score, "--ds", "2026-03-01", *sets)
    assert len(scores(first)) == ROWS
    assert "drift from 2026" not in str(manifest(first)["checks"])
    second = job(score, "--ds", "2026-03-02", *sets)
    assert second.code == 3, second
    assert "drift from 2026-03-01 of 'score': warns at 0.1, fails at 0.5" in second.err
    assert "share of one value of 'score': warns at 0.5, fails at 0.99" in second.err
    assert "1.0000 found" in second.err


def test_scores_in_a_table_of_the_catalog(job: JobCaller, root: Path, spark: SparkSession) -> None:
    asked = settings(root, table="default.explained", columns=["tags"], explain=2)
    spark.sql("DROP TABLE IF EXISTS default.explained")
    try:
        for _ in range(2):
            outcome = job(score, "--ds", DS, *asked)
            assert outcome.code == 0, outcome.err
            rows = [row.asDict() for row in spark.table("default.explained").collect()]
            assert (len(rows), {str(row["ds"]) for row in rows}) == (ROWS, {DS})
        of_files = scores(job(score, "--ds", DS, *settings(root, columns=["tags"], explain=2)))
        by_key = {(row["user"], row["item"]): row for row in of_files}
        for row in rows:
            same = by_key[row["user"], row["item"]]
            assert (row["score"], row["tags"]) == (same["score"], same["tags"])
            assert [part.asDict() for part in row["explanation"]] == same["explanation"]
        shown = job(lake, "show", "--ds", DS, *asked)
        assert f"{ROWS:,}" in shown.out, shown.err
    finally:
        spark.sql("DROP TABLE IF EXISTS default.explained")


def test_a_run_of_delta_is_not_published_twice(job: JobCaller, root: Path) -> None:
    asked = settings(root, format="delta")
    path = asked[1].removeprefix("score.path=").strip('"')
    versions = []
    for run in ("scheduled__2026-01-02T03:00:00+00:00", "manual__1"):
        for _ in range(2):
            outcome = job(score, "--ds", DS, "--run-id", run, *asked)
            assert outcome.code == 0, outcome.err
            table = DeltaTable(path)
            assert sum(pq.read_metadata(file).num_rows for file in table.file_uris()) == ROWS
            versions.append(table.version())
    first = versions[0]
    assert versions == [first, first, first + 1, first + 1]
