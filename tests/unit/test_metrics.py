import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from nfm.metrics import auc, binary_metrics, regression_metrics

# Few distinct scores, so that ties are the rule.
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=2, max_size=60)


@given(PAIRS.filter(lambda pairs: len({label for _, label in pairs}) == 2))
def test_binary_metrics_equal_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    logits, labels = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    found = binary_metrics(logits, labels)
    probability = 1 / (1 + np.exp(-logits))
    assert found["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, logits))
    assert found["logloss"] == pytest.approx(sklearn_metrics.log_loss(labels, probability))
    rmse = sklearn_metrics.root_mean_squared_error(labels, probability)
    assert found["rmse"] == pytest.approx(rmse)
    assert (found["rows"], found["positives"]) == (len(pairs), sum(labels))


def test_auc_of_one_class_is_no_number() -> None:
    assert math.isnan(auc(np.array([1.0, 2.0]), np.array([1.0, 1.0])))


def test_auc_of_a_diverged_model_is_no_number() -> None:
    assert math.isnan(auc(np.array([math.nan, 2.0]), np.array([1.0, 0.0])))


def test_metrics_survive_extreme_logits() -> None:
    found = binary_metrics(np.array([1e4, -1e4]), np.array([1.0, 0.0]))
    assert (found["logloss"], found["rmse"], found["auc"]) == (0.0, 0.0, 1.0)


def test_regression_metrics_by_hand() -> None:
    found = regression_metrics(np.array([1.0, 4.0]), np.array([4.0, 0.0]))
    assert found == {"rmse": math.sqrt(12.5), "rows": 2}
