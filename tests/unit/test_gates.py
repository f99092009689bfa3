"""Gates against figures worked out by hand, and scores' drift against quantile bins."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.cells import add_cells, as_pairs, count_cells, from_pairs
from conf.errors import DataError
from conf.manifest import FieldSpec
from conf.partition import PartitionManifest
from conf.scoring import GatesConfig, Limits
from feature_eng.gates import (
    check_keys,
    check_scores,
    check_written,
    scores_index,
    settle_gates,
)
from feature_eng.scored_files import Block, Found
from nfm.calibration import ScoreReference
from nfm.objective import probability
from nfm.predict import Scorer
from tests.bundles import bundle_of
from tests.bundles import columns as encoded_rows

FIELDS = [
    FieldSpec(
        name=name,
        kind=kind,
        source=name,
        is_expr=False,
        cardinality=9,
        offset=0,
        length=1,
        missing_rate={"train": 0.1, "valid": 0.1, "test": 0.1},
        oov_rate={"train": 0.0, "valid": 0.2, "test": 0.2} if kind == "categorical" else {},
    )
    for name, kind in (("user", "categorical"), ("price", "numeric"))
]


def found_of(scores: np.ndarray, missing: int, unknown: int) -> Found:
    values, counts = np.unique(scores, return_counts=True)
    rows = len(scores)
    return Found(
        rows=rows,
        missing={"user": missing, "price": 0},
        nulls={"row": 0},
        unknown={"user": unknown},
        values={"user": rows - missing},
        cells=count_cells(scores),
        frequent=dict(zip(values.tolist(), counts.tolist(), strict=True)),
        no_number=0,
    )


def day_with(scores: np.ndarray) -> PartitionManifest:
    cells = as_pairs(count_cells(scores))
    return PartitionManifest.model_construct(ds="2026-01-01", score_cells=cells, model_id="m-1")


def outcomes(gates: GatesConfig, found: Found, yesterday: np.ndarray | None = None) -> list[str]:
    reference = count_cells(np.linspace(0.01, 0.99, 1000))
    before = None if yesterday is None else day_with(yesterday)
    results = check_scores(gates, FIELDS, found, reference, before, "m-1")
    return [f"{r.check} {r.of} {r.found} {r.outcome}" for r in results if r.outcome != "pass"]


def test_each_gate() -> None:
    gates = GatesConfig()
    same = np.linspace(0.011, 0.989, 1000)
    assert outcomes(gates, found_of(same, 100, 180), same) == []
    # 0.25 - 0.1 of the rows, 300 of 750 values: 0.4 - 0.2
    assert outcomes(gates, found_of(same, 250, 300)) == [
        "rise of missing share user 0.1500 warn",
        "rise of unknown share user 0.2000 warn",
    ]
    assert outcomes(gates, found_of(same, 700, 300)) == [
        "rise of missing share user 0.6000 fail",
        "rise of unknown share user 0.8000 fail",
    ]
    constant = np.full(1000, 0.5)
    told = outcomes(gates, found_of(constant, 100, 0), same)
    assert told[-1] == "share of one value score 1.0000 fail"
    assert [line.rpartition(" ")[2] for line in told] == ["warn", "fail", "fail"]
    nothing = Found.added_up([])
    assert outcomes(gates, nothing) == ["rows  0 fail"]
    assert outcomes(GatesConfig(min_rows=0), nothing) == []
    assert outcomes(GatesConfig(constant_share=Limits()), found_of(constant, 100, 0), constant) == [
        outcomes(gates, found_of(constant, 100, 0))[0]
    ]


@pytest.mark.parametrize(
    ("written", "top_k", "nulls", "expected"),
    [
        (10, None, 9, ["rows in = out 10 pass", "values user 1 of 10 rows pass"]),
        (9, None, 10, ["rows in = out 9 fail", "values user 0 of 10 rows fail"]),
        (4, 2, 0, ["best 2 of 10 rows in 4 pass", "values user 10 of 10 rows pass"]),
    ],
)
def test_what_goes_in_comes_out_with_keys(
    written: int, top_k: int | None, nulls: int, expected: list[str]
) -> None:
    found = replace(found_of(np.full(10, 0.5), 0, 0), nulls={"user": nulls, "device": 10})
    results = check_written(found, written, top_k, ["user"])
    told = [" ".join(filter(None, (r.check, r.of, r.found, r.outcome))) for r in results]
    assert told == expected


def test_an_optional_field_and_a_few_rows_only_warn() -> None:
    few = found_of(np.full(99, 0.5), 99, 0)
    reference = count_cells(np.full(9, 0.5))
    results = check_scores(GatesConfig(), FIELDS, few, reference, None, "m-1", ["user"])
    told = {result.check: result.outcome for result in results if result.outcome != "pass"}
    assert told == {"rise of missing share": "warn"}


def test_a_field_of_which_nothing_is_left_fails_however_little_the_share_rose() -> None:
    same = np.linspace(0.011, 0.989, 1000)

    def told(
        found: Found, limits: Limits | None = None, optional: str = "", usual: float = 0.55
    ) -> list[str]:
        gates = GatesConfig(missing_share=limits) if limits else GatesConfig()
        rates = {"missing_rate": {"train": usual}, "oov_rate": {"valid": 0.7}}
        fields = [field.model_copy(update=rates) for field in FIELDS]
        results = check_scores(gates, fields, found, count_cells(same), None, "m", [optional])
        return [r.line() for r in results if "'user'" in r.line()]

    gone = found_of(same, 1000, 0)
    assert told(gone) == [
        "fail: missing share of 'user': not all (usually 0.5500) expected, all 1000 found",
        "pass: rise of unknown share of 'user': values to look up expected, none found",
    ]
    assert told(found_of(same, 0, 1000))[1] == (
        "fail: unknown share of 'user': not all (usually 0.7000) expected, all 1000 found"
    )
    warned = "warn: rise of missing share of 'user': warns at 0.1"
    assert told(gone, optional="user")[0].startswith(f"{warned} expected")
    assert told(gone, Limits(warn=0.1))[0].startswith(f"{warned} expected")
    assert told(found_of(same, 999, 0))[0].startswith(f"{warned}, fails at 0.5 expected")
    # Of 20 rows none has a value once in 0.55 ** -20 = 156,000 days.
    assert told(found_of(same[:20], 20, 0))[0].startswith(warned)
    assert told(gone, usual=1.0)[0].startswith("pass: rise of missing share")


@pytest.mark.parametrize(
    ("limits", "model", "told"),
    [
        (Limits(warn=0.1, fail=0.5), "m-1", "warns at 0.1, fails at 0.5 expected, "),
        (Limits(fail=0.5), "m-1", "fails at 0.5 expected, "),
        (Limits(warn=0.1, fail=0.5), "m-2", "warns at 0.1 expected, "),
        (Limits(fail=0.5), "m-2", "warns at 0.5 expected, "),
    ],
)
def test_a_day_of_another_model_only_warns(limits: Limits, model: str, told: str) -> None:
    """Otherwise no night would pass after a promotion until the day before it is a week old."""
    start = {
        "m-1": "fail: drift from 2026-01-01 of 'score': ",
        "m-2": "warn: drift from 2026-01-01, when 'm-1' scored, of 'score': ",
    }
    same, other = np.linspace(0.011, 0.989, 1000), np.linspace(0.5, 0.501, 1000)
    gates, found = GatesConfig(yesterday_drift=limits), found_of(other, 100, 0)
    results = check_scores(gates, FIELDS, found, count_cells(same), day_with(same), model)
    (line,) = (result.line() for result in results if "2026-01-01" in result.check)
    assert line.startswith(start[model] + told)


def test_that_there_is_no_earlier_day_is_recorded() -> None:
    same = np.linspace(0.011, 0.989, 1000)
    results = check_scores(
        GatesConfig(), FIELDS, found_of(same, 100, 0), count_cells(same), None, "m-1"
    )
    (line,) = (result.line() for result in results if "week before" in result.check)
    told = "drift from the week before of 'score': scores to compare with expected, none found"
    assert line == f"pass: {told}"


def test_scores_that_are_no_numbers_fail() -> None:
    columns = {"user": np.array([2, 3, 3, 2], np.int32), "price": np.zeros(4, np.float32)}
    block = Block(columns, {}, np.arange(4), {"price": np.zeros(4, bool)})

    def of(*outputs: float) -> Found:
        output = np.array(outputs, np.float32)
        score = probability(output.astype(np.float64))
        return Found.of(block, FIELDS, {"output": output, "model_score": score, "score": score})

    none = of(np.nan, np.inf, -np.inf, np.nan)
    found = Found.added_up([of(0.0, np.nan, 0.0, np.inf), Found.from_json(none.to_json())])
    assert (found.rows, found.frequent, sum(found.cells.values())) == (8, {0.5: 2}, 2)
    for one, rows in ((found, 6), (none, 4)):
        told = outcomes(GatesConfig(), one)
        (line,) = (line for line in told if line.startswith("scores are numbers"))
        found_line = f"{rows} rows without; clip the numeric fields, or train again"
        assert line == f"scores are numbers score {found_line} fail"


def test_one_plateau_of_a_calibration_is_one_score(tmp_path: Path) -> None:
    """Though the model's own differ, by which the days are compared."""
    plateau = ScoreReference({}, [[-99.0, 99.0], [0.3, 0.3]], [1.0, 0.0])
    bundle, encoded = bundle_of(tmp_path, scores=plateau), encoded_rows(500)
    nulls = {"price": np.zeros(500, bool)}
    block = Block(encoded, {}, np.arange(500), nulls)
    shares = []
    for kind in ("none", "isotonic"):
        found = Found.of(block, FIELDS, Scorer(bundle, kind, 0)(encoded))
        told = check_scores(GatesConfig(), [], found, found.cells, None, "m")
        shares.append([(r.found, r.outcome) for r in told if r.check == "share of one value"])
        assert len(found.cells) > 50
    assert shares == [[("0.0020", "pass")], [("1.0000", "fail")]]


@pytest.mark.parametrize("overrides", [(), ("task=regression", "train.early_stopping.metric=rmse")])
def test_an_infinite_output_is_no_number_though_its_score_is(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    bundle, encoded = bundle_of(tmp_path, "model.name=lr", *overrides), encoded_rows(500)
    bundle.table_VD[3] = torch.inf  # of the third user
    scores = Scorer(bundle, "none", 0)(encoded)
    assert np.isfinite(scores["score"]).all()
    block = Block(encoded, {}, np.arange(500), {"price": np.zeros(500, bool)})
    found = Found.of(block, FIELDS, scores)
    assert found.no_number == np.count_nonzero(encoded["user"] == 3) > 0
    told = check_scores(GatesConfig(), [], found, found.cells, None, "m")
    assert [r.outcome for r in told if r.check == "scores are numbers"] == ["fail"]


def test_a_failed_gate_ends_the_run_unless_forced(caplog: pytest.LogCaptureFixture) -> None:
    results = [check_keys("fail", 3, ["user", "item"]), check_keys("warn", 3, ["user"])]
    with pytest.raises(DataError) as raised:
        settle_gates(results, "tonight of 2026-01-02", forced=False)
    assert str(raised.value).splitlines() == [
        "1 of 2 gates failed for tonight of 2026-01-02; nothing was published. Mend the data, the "
        "model or what score.gates expects, or publish with --force:",
        "  fail: keys are unique of 'user, item': no row with the keys of another expected, "
        "3 of them found",
    ]
    with caplog.at_level(logging.WARNING):
        settle_gates(results, "tonight of 2026-01-02", forced=True)
    assert len(caplog.records) == 2
    assert check_keys("fail", 0, ["user"]).outcome == "pass"


def test_drift_of_scores_is_that_over_quantiles() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.beta(2, 5, 50_000), rng.beta(2, 4, 50_000)
    edges = np.quantile(before, np.arange(1, 20) / 20)
    p = np.bincount(np.searchsorted(edges, before), minlength=20) / 50_000
    q = np.bincount(np.searchsorted(edges, now), minlength=20) / 50_000
    expected = ((p - q) * np.log(p / q)).sum()
    assert scores_index(count_cells(before), count_cells(now)) == pytest.approx(expected, rel=0.05)
    assert scores_index(count_cells(before), count_cells(rng.beta(2, 5, 1000))) < 0.01
    assert scores_index(count_cells(before), count_cells(np.repeat([-7.0, 9.0], 500))) > 1


def test_cells_rise_with_scores_and_add_up() -> None:
    scores = np.array([-np.pi, -1.0, -1e-30, 0.0, 1e-30, 0.1, 0.101, 0.5, 1.0, 1e30])
    cells = [next(iter(count_cells(np.array([score])))) for score in scores]
    assert cells == sorted(cells)
    assert len(set(cells)) == len(cells)
    assert count_cells(np.array([0.5, 0.5001])) == {cells[7]: 2}
    whole = count_cells(scores)
    assert add_cells([count_cells(scores[:3]), count_cells(scores[3:]), {}]) == whole
    assert from_pairs([list(pair) for pair in whole.items()]) == whole
