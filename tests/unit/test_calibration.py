"""Curves from outputs to probabilities against scikit-learn's, and the spread of scores."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from conf.cells import count_cells
from nfm.calibration import ScoreReference
from nfm.objective import Objective, probability
from nfm.tally import Tally

LOGISTIC = Objective("binary", "logistic")
BOUNDED = Objective("regression", "squared", (-1.0, 2.5))
# Output and label: few of each, so that ties are the rule.
ROWS = st.lists(
    st.tuples(st.integers(-6, 6).map(lambda n: n / 2), st.integers(0, 1)), min_size=1, max_size=60
)
ASKED = np.linspace(-4, 4, 49)


def many(rows: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outputs, no two alike, and labels that follow them."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(-1, 2, rows).astype(np.float32)
    return outputs, (rng.random(rows) < probability(slope * outputs + 0.3)).astype(int)


def isotonic_by_sklearn(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    fitted = IsotonicRegression(out_of_bounds="clip").fit(outputs.astype(np.float64), labels)
    return fitted.predict(ASKED)


def platt_by_sklearn(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each row twice, as a positive and as a negative, weighed by Platt's targets."""
    positives, negatives = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
        np.tile(outputs.astype(np.float64), 2)[:, np.newaxis],
        np.repeat([1, 0], len(outputs)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    if fitted.coef_[0, 0] < 0:
        return np.full(len(ASKED), targets.mean())
    return fitted.predict_proba(ASKED[:, np.newaxis])[:, 1]


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_the_isotonic_curve_is_scikit_learns(rows: list[tuple[float, int]]) -> None:
    outputs, labels = (np.array(column) for column in zip(*rows, strict=True))
    found = ScoreReference.of(Tally.of(outputs, labels), LOGISTIC).calibrate("isotonic", ASKED)
    np.testing.assert_allclose(found, isotonic_by_sklearn(outputs, labels), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(ROWS.filter(lambda rows: len({output for output, _ in rows}) > 1))
def test_platts_curve_is_scikit_learns(rows: list[tuple[float, int]]) -> None:
    outputs, labels = (np.array(column) for column in zip(*rows, strict=True))
    found = ScoreReference.of(Tally.of(outputs, labels), LOGISTIC).calibrate("platt", ASKED)
    np.testing.assert_allclose(found, platt_by_sklearn(outputs, labels), atol=1e-6)


def test_curves_of_many_rows() -> None:
    outputs, labels = many(20_000, slope=0.6)
    reference = ScoreReference.of(Tally.of(outputs, labels), LOGISTIC)
    isotonic, platt = (reference.calibrate(kind, ASKED) for kind in ("isotonic", "platt"))
    np.testing.assert_allclose(isotonic, isotonic_by_sklearn(outputs, labels), atol=1e-12)
    np.testing.assert_allclose(platt, platt_by_sklearn(outputs, labels), atol=1e-7)
    assert reference.platt == pytest.approx([0.6, 0.3], abs=0.05), "what the labels were drawn by"


@pytest.mark.parametrize("slope", [0.7, 0.0, -0.7, 100.0])
@pytest.mark.parametrize("kind", ["isotonic", "platt"])
def test_probabilities_never_fall(kind: str, slope: float) -> None:
    """Also those of a model that has learnt nothing, or the wrong way round."""
    outputs, labels = many(3000, slope)
    asked = np.sort(np.concatenate([outputs, outputs * 1.5, [-3e38, 3e38]]))
    found = ScoreReference.of(Tally.of(outputs, labels), LOGISTIC).calibrate(kind, asked)
    assert np.diff(found).min() >= -1e-15
    assert (found.min() >= 0, found.max() <= 1) == (True, True)
    assert found.mean() == pytest.approx(labels.mean(), abs=0.1)


@pytest.mark.parametrize(("label", "rate"), [(0, 1 / 42), (1, 41 / 42)])
def test_rows_that_are_all_alike_have_platts_rate(label: int, rate: float) -> None:
    reference = ScoreReference.of(Tally.of(np.full(40, 3.0), np.full(40, label)), LOGISTIC)
    assert reference.calibrate("platt", np.array([3.0])) == pytest.approx([rate])
    assert reference.calibrate("isotonic", np.array([3.0])).tolist() == [label]


@pytest.mark.parametrize("objective", [LOGISTIC, Objective("binary", "squared"), BOUNDED])
def test_scores_are_counted_row_by_row(objective: Objective) -> None:
    outputs, labels = np.array([0.5, 0.5, -9.0, 7.0, 0.5]), np.array([1, 0, 0, 1, 1])
    reference = ScoreReference.of(Tally.of(outputs, labels), objective)
    by_row = [next(iter(count_cells(objective.scores(outputs[i : i + 1])))) for i in range(5)]
    assert reference.cells == Counter(by_row)
    assert ScoreReference.from_json(reference.to_json()) == reference
