"""Transactions of a Delta table of scores: retries, conflicts, time travel, new columns."""

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from conf.errors import DataError, RunError
from conf.scoring import ScoreConfig
from feature_eng.lake import delta, manifest_of, publication
from tests.scores import commit, publish, score_config

MONDAY, TUESDAY = "2026-01-05", "2026-01-06"


@pytest.fixture
def config(tmp_path: Path) -> ScoreConfig:
    return score_config(tmp_path / "scores", format="delta")


def rows(config: ScoreConfig, ds: str, version: int | None = None) -> list[tuple[int, float]]:
    """By any reader of Delta tables."""
    files = DeltaTable(config.path, version).file_uris(partition_filters=[("ds", "=", ds)])
    tables = [pq.read_table(file, partitioning=None) for file in files]
    return sorted((row["user"], row["score"]) for table in tables for row in table.to_pylist())


def test_time_travel_finds_the_earlier_scores_and_a_restore_their_manifest(
    config: ScoreConfig,
) -> None:
    old = publish(None, config, MONDAY, "old", [(1, 0.5)], [(2, 0.5)])
    version = DeltaTable(config.path).version()
    publish(None, config, MONDAY, "new", [(1, 0.75)])
    assert rows(config, MONDAY) == [(1, 0.75)]
    assert rows(config, MONDAY, version) == [(1, 0.5), (2, 0.5)]
    table = DeltaTable(config.path)
    assert table.history(1)[0]["nfm_run"] == "new"
    assert table.history(1)[0]["model_id"] == "model-1"
    table.restore(version)
    assert manifest_of(config, MONDAY) == old


def test_a_retry_of_a_run_commits_once(config: ScoreConfig) -> None:
    first = publish(None, config, MONDAY, "run", [(1, 0.5)])
    version = DeltaTable(config.path).version()
    publish(None, config, MONDAY, "run", [(1, 0.5)])
    assert DeltaTable(config.path).version() == version
    assert rows(config, MONDAY) == [(1, 0.5)]
    assert manifest_of(config, MONDAY) == first
    assert len(list(Path(config.path, f"ds={MONDAY}").iterdir())) == 1
    publish(None, config, TUESDAY, "run", [(2, 0.5)])  # another day under the same id
    assert rows(config, TUESDAY) == [(2, 0.5)]


@pytest.mark.parametrize("before", [False, True])
def test_without_locks_the_first_of_two_runs_wins(
    config: ScoreConfig, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    publish(None, config, TUESDAY, "other", [(1, 0.5)])
    if before:
        publish(None, config, MONDAY, "before", [(1, 0.5)])
    no_locks(monkeypatch)
    with publication(None, config, MONDAY, "late") as late:
        early = publish(None, config, MONDAY, "early", [(1, 0.25)])
        with pytest.raises(RunError, match=f"another run published {MONDAY} of"):
            commit(late, MONDAY, "late", [(1, 0.75)])
    assert manifest_of(config, MONDAY) == early
    assert rows(config, MONDAY) == [(1, 0.25)]
    assert not list(Path(config.path).rglob("*late*"))


def test_a_damaged_manifest_hides_no_other(config: ScoreConfig) -> None:
    for run in ("b", "a", "c"):
        newest = publish(None, config, MONDAY, run, [(1, 0.5)])
    manifests = Path(config.path, f"_manifests/ds={MONDAY}")
    for run in "ab":
        (manifests / f"{run}.json").write_text("{")
    assert manifest_of(config, MONDAY) == newest
    (manifests / "c.json").write_text("{")
    with pytest.raises(DataError, match=r"is damaged .* score the day again"):
        manifest_of(config, MONDAY)
    again = publish(None, config, MONDAY, "d", [(1, 0.5)])
    assert manifest_of(config, MONDAY) == again


@pytest.mark.parametrize("before", [False, True])
def test_two_transactions_in_the_same_moment(
    config: ScoreConfig, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """The other run commits after this one has looked."""
    publish(None, config, TUESDAY, "other", [(1, 0.5)])
    if before:
        publish(None, config, MONDAY, "before", [(1, 0.5)])
    no_locks(monkeypatch)
    write = DeltaTable.create_write_transaction
    others = []

    def write_late(table: DeltaTable, *arguments: Any, **options: Any) -> None:
        if not others:
            others.append("begun")
            others.append(publish(None, config, MONDAY, "early", [(1, 0.25)]))
        write(table, *arguments, **options)

    with publication(None, config, MONDAY, "late") as late:
        monkeypatch.setattr(DeltaTable, "create_write_transaction", write_late)
        with pytest.raises(RunError, match=f"another run published {MONDAY} of"):
            commit(late, MONDAY, "late", [(1, 0.75)])
    assert manifest_of(config, MONDAY) == others[1]
    assert rows(config, MONDAY) == [(1, 0.25)]


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.parametrize("landed", [False, True])
def test_a_commit_whose_answer_is_lost(
    config: ScoreConfig, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    write, calls = DeltaTable.create_write_transaction, []

    def fail_once(table: DeltaTable, *arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) > 1 or landed:
            write(table, *arguments, **options)
        if len(calls) == 1:
            raise delta.DeltaError("the store did not answer")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", fail_once)
    made = publish(None, config, MONDAY, "run", [(1, 0.5)])
    assert rows(config, MONDAY) == [(1, 0.5)]
    assert manifest_of(config, MONDAY) == made
    assert len(calls) == (1 if landed else 2)


def test_a_run_that_is_killed_before_its_transaction_changes_nothing(
    config: ScoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    made = publish(None, config, MONDAY, "run", [(1, 0.5)])
    with monkeypatch.context() as patched:
        patched.setattr(DeltaTable, "create_write_transaction", die)
        for ds in (MONDAY, TUESDAY):
            with pytest.raises(KeyboardInterrupt):
                publish(None, config, ds, "killed", [(1, 0.75)])
    assert manifest_of(config, MONDAY) == made
    assert rows(config, MONDAY) == [(1, 0.5)]
    assert manifest_of(config, TUESDAY) is None
    again = publish(None, config, TUESDAY, "killed", [(1, 0.75)])  # the same run, tried again
    assert manifest_of(config, TUESDAY) == again


def test_columns_join_the_table_and_keep_their_types(config: ScoreConfig) -> None:
    publish(None, config, MONDAY, "run-1", [(1, 0.5)])
    with publication(None, config, TUESDAY, "run-2") as published:
        commit(published, TUESDAY, "run-2", [(1, 0.5)], extra=pa.array(["x"]))
    names = [field.name for field in DeltaTable(config.path).schema().fields]
    assert names == ["user", "score", "scored_at", "ds", "extra"]
    publish(None, config, TUESDAY, "run-3", [(1, 0.5)])  # without the column
    assert [field.name for field in DeltaTable(config.path).schema().fields] == names
    with (
        publication(None, config, TUESDAY, "run-4") as published,
        pytest.raises(DataError, match=r"column 'extra' is .*long.*, and .*string.* in the Delta"),
    ):
        commit(published, TUESDAY, "run-4", [(1, 0.5)], extra=pa.array([1]))
    assert rows(config, TUESDAY) == [(1, 0.5)]
    assert not list(Path(config.path).rglob("*run-4*"))


def test_another_tool_may_rewrite_the_files(config: ScoreConfig) -> None:
    """What it wrote counts; that it is what a manifest speaks of, nobody knows."""
    publish(None, config, MONDAY, "run", [(1, 0.5)], [(2, 0.25)])
    DeltaTable(config.path).optimize.compact()
    assert rows(config, MONDAY) == [(1, 0.5), (2, 0.25)]
    assert manifest_of(config, MONDAY) is None
