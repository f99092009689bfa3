"""What the vacuum takes, and what it leaves."""

import os
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from feature_eng.lake import manifest_of, publication
from feature_eng.lake.vacuum import vacuum
from tests.scores import Rows, commit, publish, score_config, write_scores
from tests.unit.test_delta import no_locks, rows

MONDAY, TUESDAY = "2026-01-05", "2026-01-06"
PART: Rows = [(1, 0.5)]
LEFT = ".ds=2026-01-05.staging-01234567"


def make(path: Path, *, days_old: float = 0.0) -> str:
    """A file that a killed run or another hand left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("12345")
    then = time.time() - days_old * 86_400
    os.utime(path, (then, then))
    return str(path)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_of_parquet_it_leaves_what_the_manifests_name(tmp_path: Path) -> None:
    config = score_config(tmp_path)
    publish(None, config, MONDAY, "run", PART, PART)
    publish(None, config, TUESDAY, "run", PART)
    make(tmp_path / f"ds={MONDAY}/part-young.parquet")
    make(tmp_path / "ds=2026-01-07/part-of-others.parquet", days_old=30)
    make(tmp_path / ".ds=2026-01-08.retired-01234567/_manifest.json", days_old=30)  # the only one
    kept = files(tmp_path)
    gone = {
        make(tmp_path / f"ds={MONDAY}/part-old.parquet", days_old=8),
        make(tmp_path / f"ds={MONDAY}/._manifest.json.0123", days_old=8),
        make(tmp_path / LEFT / "part-killed.parquet").rpartition("/")[0],
        make(tmp_path / ".ds=2026-01-05.retired-01234567/_manifest.json").rpartition("/")[0],
    }
    for dry_run in (True, False):
        removed = vacuum(config, 168, dry_run=dry_run)
        assert {part.path for part in removed} == gone
        assert [part.bytes for part in removed] == [5, 5, 5, 5]
        assert (files(tmp_path) == kept) != dry_run
    assert vacuum(config, 168, dry_run=False) == []
    assert [part.path for part in vacuum(config, 0, dry_run=False)] == [
        f"{tmp_path}/ds={MONDAY}/part-young.parquet"
    ]


def test_a_day_that_is_being_written_is_left(tmp_path: Path) -> None:
    config = score_config(tmp_path)
    with publication(None, config, MONDAY, "run") as published:
        staged = write_scores(published.directory, "run", PART)
        make(tmp_path / ".ds=2026-01-06.staging-01234567/part.parquet", days_old=8)
        removed = vacuum(config, 0, dry_run=False)
        assert [part.path for part in removed] == [f"{tmp_path}/.ds=2026-01-06.staging-01234567"]
        assert os.listdir(published.directory) == [staged]


def test_without_locks_only_age_tells_that_a_run_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch)
    make(tmp_path / LEFT / "part-1.parquet", days_old=8)
    young = tmp_path / LEFT / "part-2.parquet"
    make(young)
    assert vacuum(score_config(tmp_path), 168, dry_run=False) == []
    make(young, days_old=8)
    begun = tmp_path / ".ds=2026-01-06.staging-01234567"
    begun.mkdir()  # and no task has written yet
    assert [part.bytes for part in vacuum(score_config(tmp_path), 168, dry_run=False)] == [10]
    assert os.listdir(tmp_path) == [begun.name]


@pytest.mark.parametrize("found", ["{", '{"schema_version": 2}'])
def test_a_damaged_day_is_left_and_stops_no_other(tmp_path: Path, found: str) -> None:
    config = score_config(tmp_path)
    for ds in (MONDAY, TUESDAY):
        publish(None, config, ds, "run", PART)
        make(tmp_path / f"ds={ds}/part-old.parquet", days_old=8)
    (tmp_path / f"ds={MONDAY}/_manifest.json").write_text(found)
    make(tmp_path / LEFT / "part-killed.parquet")
    assert [part.path for part in vacuum(config, 168, dry_run=False)] == [
        f"{tmp_path}/ds={TUESDAY}/part-old.parquet"
    ]


def test_of_a_delta_table_it_leaves_what_the_log_needs(tmp_path: Path) -> None:
    config = score_config(tmp_path, format="delta")
    publish(None, config, MONDAY, "first", PART)
    time_travel = DeltaTable(config.path).version()
    last = publish(None, config, MONDAY, "last", [(2, 0.5)])
    make(tmp_path / f"ds={TUESDAY}/part-young-1.parquet")
    make(tmp_path / f"_manifests/ds={TUESDAY}/young.json")
    kept = files(tmp_path)
    gone = {
        make(tmp_path / f"ds={TUESDAY}/part-killed-1.parquet", days_old=8),
        make(tmp_path / f"_manifests/ds={TUESDAY}/killed.json", days_old=8),
        make(tmp_path / f"_manifests/ds={TUESDAY}/.killed.json.0123", days_old=8),
        make(tmp_path / LEFT / "part-killed-1.parquet").rpartition("/")[0],
    }
    for dry_run in (True, False):
        assert {part.path for part in vacuum(config, 168, dry_run=dry_run)} == gone
        assert (files(tmp_path) == kept) != dry_run
    assert rows(config, MONDAY, time_travel) == PART
    with publication(None, config, TUESDAY, "running") as published:  # leaves this day alone
        (old,) = (name for name in os.listdir(tmp_path / f"ds={MONDAY}") if "-first-" in name)
        removed = {Path(part.path).name for part in vacuum(config, 0, dry_run=False)}
        assert removed == {"first.json", old}
        assert (tmp_path / f"ds={TUESDAY}/part-young-1.parquet").exists()
        commit(published, TUESDAY, "running", PART)
    assert rows(config, MONDAY) == [(2, 0.5)]
    assert manifest_of(config, MONDAY) == last
    publish(None, config, MONDAY, "last again", [(2, 0.5)])
    (tmp_path / f"_manifests/ds={MONDAY}/last.json").write_text("{")  # superseded, and damaged
    removed = {Path(part.path).name for part in vacuum(config, 0, dry_run=False)}
    assert len(removed) == 4
    assert "last.json" in removed
    assert manifest_of(config, MONDAY)
    assert manifest_of(config, TUESDAY)
    assert rows(config, TUESDAY) == PART
