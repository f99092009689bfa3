"""Metrics over all rows of a split, from all workers' predictions."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

HIGHER_IS_BETTER = {"auc": True, "logloss": False, "rmse": False}


def binary_metrics(logits: Array, labels: Array) -> dict[str, float]:
    """AUC, logloss (nats), RMSE of the probability, rows and positives.

    Args:
        logits: [n].
        labels: 0 or 1, [n].
    """
    return {
        "auc": auc(logits, labels),
        "logloss": float(np.mean(np.logaddexp(0.0, logits) - labels * logits)),
        "rmse": _rmse(probability(logits), labels),
        "rows": len(labels),
        "positives": int(labels.sum()),
    }


def regression_metrics(predictions: Array, labels: Array) -> dict[str, float]:
    """RMSE and rows."""
    return {"rmse": _rmse(predictions, labels), "rows": len(labels)}


METRICS: dict[str, Callable[[Array, Array], dict[str, float]]] = {
    "binary": binary_metrics,
    "regression": regression_metrics,
}


def probability(logits: Array) -> Array:
    """The logistic function, without overflow.

    Example:
        >>> probability(np.array([0.0, -1000.0]))
        array([0.5, 0. ])
    """
    small = np.exp(-np.abs(logits))
    result: Array = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return result


def auc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve, exactly: the Mann-Whitney U statistic with ties counted half.

    Returns:
        NaN where one class is missing or a score is NaN: some pair has no order.

    Example:
        >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([0, 0, 1, 1]))
        0.875
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives or np.isnan(scores).any():
        return float("nan")
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(size) - (size - 1) / 2
    rank_sum = mean_rank[group][labels == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def _rmse(predictions: Array, labels: Array) -> float:
    return float(np.sqrt(np.mean((predictions - labels) ** 2)))
