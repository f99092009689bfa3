"""What jobs.lake prints, and how jobs.backfill ends."""

from argparse import Namespace
from pathlib import Path

import pytest

from conf.errors import ConfigError, DataError, RunError
from conf.manifest import CheckResult
from feature_eng.lake import publication
from jobs import backfill, lake, score
from jobs.backfill import Day
from tests.data import DS, make_config
from tests.scores import manifest_for, publish, write_scores


def test_show_tells_where_the_scores_of_a_day_come_from(tmp_path: Path) -> None:
    config = make_config(tmp_path, f"score.path={tmp_path}/scores")
    checks = [
        CheckResult(check="rows", of="", expected="at least 1", found="7", outcome="pass"),
        CheckResult(check="drift", of="score", expected="fails at 1", found="2", outcome="fail"),
    ]
    with publication(None, config.score, DS, "run-1") as published:  # type: ignore[arg-type]
        name = write_scores(published.directory, "run-1", [(1, 0.5), (2, 0.5)])
        size = (Path(published.directory) / name).stat().st_size
        found = {"checks": checks, "forced": True, "created_at": "2026-01-03T01:02:03+00:00"}
        published.commit(manifest_for(published.directory, [name], DS, "run-1", **found))
    assert lake.plan(config, Namespace(action="show", ds=DS)) == [
        f"2026-01-02 in {tmp_path}/scores",
        "  scored            2026-01-03T01:02:03+00:00",
        "  run               run-1",
        "  model             model-1",
        "  vocabulary        ab",
        "  source            raw, 7 rows",
        "  rows              2",
        "  config            cd",
        "  software          pyspark 4",
        "  seconds           score 1.5",
        "  gates             1 pass, 0 warn, 1 fail, published by --force",
        "    pass: rows: at least 1 expected, 7 found",
        "    fail: drift of 'score': fails at 1 expected, 2 found",
        f"  files             1, {size:,} bytes",
        f"    {name}: 2 rows, {size:,} bytes",
    ]
    with pytest.raises(DataError, match="no manifest speaks of the scores of 2026-01-03 in"):
        lake.plan(config, Namespace(action="show", ds="2026-01-03"))
    with pytest.raises(ConfigError, match="show needs the day"):
        lake.plan(config, Namespace(action="show", ds=None))


def test_vacuum_tells_what_it_removed(tmp_path: Path) -> None:
    config = make_config(tmp_path, f"score.path={tmp_path}/scores")
    publish(None, config.score, DS, "run", [(1, 0.5)])
    extra = tmp_path / f"scores/ds={DS}/extra"
    extra.write_text("12345")
    for dry_run, said in ((True, "would be removed"), (False, "removed")):
        options = Namespace(action="vacuum", keep_hours=0, dry_run=dry_run)
        assert lake.plan(config, options) == [
            f"{said}: {extra}, 5 bytes",
            f"vacuum of {tmp_path}/scores: 1 {said}, 5 bytes",
        ]
    assert not extra.exists()


def test_a_damaged_or_empty_day_before_is_passed_over(tmp_path: Path) -> None:
    config = make_config(tmp_path, f"score.path={tmp_path}/scores").score
    for ds in ("2026-01-02", "2026-01-04", "2026-01-05"):
        publish(None, config, ds, ds, [(1, 0.5)], score_cells=[[7, 1]])
    publish(None, config, "2026-01-03", "empty", [])
    (tmp_path / "scores/ds=2026-01-05/_manifest.json").write_text('{"schema_version": 2}')
    (tmp_path / "scores/ds=2026-01-04/_manifest.json").write_text('{"schema_ver')
    found = [score.newest_before(config, ds) for ds in ("2026-01-06", "2026-01-09", "2026-01-10")]
    assert [manifest and manifest.ds for manifest in found] == ["2026-01-02", "2026-01-02", None]


@pytest.mark.parametrize(
    ("codes", "error"),
    [([0, 0], None), ([3, 0, 3], DataError), ([3, 4], RunError), ([2, 3], RunError), ([1], None)],
)
def test_a_backfill_ends_with_the_code_of_its_failures(
    codes: list[int], error: type[Exception] | None
) -> None:
    days = [Day("2026-01-01", None, 1.0, "x", code) for code in codes]
    failed = backfill.failure(days)
    assert type(failed) is (RunError if codes == [1] else error or type(None))


def test_days_of_another_model_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(tmp_path, f"score.path={tmp_path}/scores")
    for ds, model in (("2026-01-01", "model-1"), ("2026-01-02", "model-0")):
        publish(None, config.score, ds, ds, [(1, 0.5)], model_id=model)
    (tmp_path / "models/model-1").mkdir(parents=True)
    (tmp_path / "models/model-1/bundle.json").write_text("{}")
    options = Namespace(first="2026-01-01", last="2026-01-02", bundle="latest", only_missing=True)
    assert backfill.plan(config, options) == [
        "skip: 2026-01-01 has scores of model-1",
        "skip: 2026-01-02 has scores of model-0",
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "2026-01-02 keeps scores of 'model-0', where 'model-1' was asked for; to replace them, "
        "score that day without --only-missing"
    ]


def test_the_days_of_a_range() -> None:
    options = Namespace(first="2024-02-28", last="2024-03-01")
    assert backfill.days_of(options) == ["2024-02-28", "2024-02-29", "2024-03-01"]
    with pytest.raises(ConfigError, match="--to 2024-02-27 is before --from 2024-02-28"):
        backfill.days_of(Namespace(first="2024-02-28", last="2024-02-27"))
