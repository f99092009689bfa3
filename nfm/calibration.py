"""What the validation rows say of a model's scores: how they are spread, and how probable they are.

The curves that make probabilities of outputs (see ``nfm.objective``) never fall, so that rows keep
their order.

Shapes: N = entries of a tally, C = cells of entries with the same output, P = pools of cells, M =
knots of a curve.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conf.cells import Cells, as_pairs, count_cells, from_pairs
from conf.scoring import Calibration
from nfm.objective import Objective, probability
from nfm.tally import Tally, starts_of, sums

Array = npt.NDArray[Any]

_ITERATIONS = 100  # of Newton's method, which takes about six
_TOLERANCE = 1e-9  # a step below it, in deviations of the outputs, is the last


@dataclass(frozen=True)
class ScoreReference:
    """The scores of the validation rows, by the epoch that was best.

    Attributes:
        cells: Their rows by cell.
        isotonic: Of a binary task: outputs, ascending, and the probability at each.
        platt: Of a binary task: slope and intercept; a probability is the logistic function of
            slope * output + intercept.
    """

    cells: Cells
    isotonic: list[list[float]] | None
    platt: list[float] | None

    @classmethod
    def of(cls, tally: Tally, objective: Objective) -> "ScoreReference":
        """Fit it to predicted rows, at least one."""
        cells = count_cells(np.repeat(objective.scores(tally.output_N), tally.count_N))
        if objective.task != "binary":
            return cls(cells, None, None)
        starts = starts_of(tally.output_N)
        output_C = tally.output_N[starts].astype(np.float64)
        rows_C = sums(tally.count_N, starts)
        positives_C = sums(tally.count_N * (tally.label_N == 1), starts)
        isotonic = fit_isotonic(output_C, positives_C, rows_C)
        platt = fit_platt(output_C, positives_C, rows_C)
        return cls(cells, [part.tolist() for part in isotonic], list(platt))

    def calibrate(self, kind: Calibration, outputs: Array) -> Array:
        """Probabilities of rows with these outputs, in [0, 1]; float64 [n].

        Args:
            kind: isotonic or platt.
            outputs: What a model for a binary task put out [n].
        """
        assert self.isotonic
        assert self.platt
        wide = outputs.astype(np.float64)
        if kind == "platt":
            slope, intercept = self.platt
            return probability(slope * wide + intercept)
        found: Array = np.interp(wide, self.isotonic[0], self.isotonic[1])
        return np.clip(found, 0.0, 1.0)  # which it may leave in the last bit

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.__dict__, "cells": as_pairs(self.cells)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ScoreReference":
        """The way back."""
        return cls(from_pairs(data["cells"]), data["isotonic"], data["platt"])


def fit_isotonic(output_C: Array, positives_C: Array, rows_C: Array) -> tuple[Array, Array]:
    """The rising step function nearest to the labels, by pooling adjacent violators.

    (Ayer et al. 1955; for classifiers Zadrozny & Elkan 2002.) All runs of pools that do not rise
    are merged at once, which leads to the same pools as one pair after the other.

    Args:
        output_C: Distinct and ascending.
        positives_C: Rows with label 1, int64.
        rows_C: All rows, int64.

    Returns:
        Outputs at which pools begin and end, and the pools' shares of positives, to be joined by
        straight lines: float64 [M] each.
    """
    begin_P = np.arange(len(output_C))
    while True:
        # A share above the one before it, in whole numbers.
        rises = positives_C[1:] * rows_C[:-1] > positives_C[:-1] * rows_C[1:]
        if rises.all():
            break
        starts = np.flatnonzero(np.append(True, rises))
        positives_C, rows_C = sums(positives_C, starts), sums(rows_C, starts)
        begin_P = begin_P[starts]
    end_P = np.append(begin_P[1:], len(output_C)) - 1
    knots, of_pool = np.unique(np.stack([begin_P, end_P], axis=1), return_inverse=True)
    shares = np.empty(len(knots))
    shares[of_pool.reshape(-1, 2)] = (positives_C / rows_C)[:, np.newaxis]
    return output_C[knots], shares


def fit_platt(output_C: Array, positives_C: Array, rows_C: Array) -> tuple[float, float]:
    """Slope and intercept of the logistic curve nearest to the labels (Platt 1999).

    Labels are his smoothed ones, (n1 + 1) / (n1 + 2) for the n1 rows with label 1 and 1 / (n0 + 2)
    for the n0 others, so that a curve exists where outputs part the classes, too. It is found by
    Newton's method with halved steps (Lin, Lin & Weng 2007). A slope below 0 is taken for 0.

    Args:
        output_C: Distinct.
        positives_C: Rows with label 1.
        rows_C: All rows.
    """
    rows, positives = rows_C.sum(), positives_C.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (rows - positives + 2)
    target_C = positives_C * high + (rows_C - positives_C) * low  # summed over the cell's rows
    mean = np.average(output_C, weights=rows_C)
    scale = np.sqrt(np.average((output_C - mean) ** 2, weights=rows_C)) or 1.0
    x_C2 = np.stack([(output_C - mean) / scale, np.ones(len(output_C))], axis=1)
    rate = target_C.sum() / rows
    curve = np.array([0.0, np.log(rate / (1 - rate))])

    def loss(curve: Array) -> float:
        z_C = x_C2 @ curve
        return float(rows_C @ np.logaddexp(0, z_C) - target_C @ z_C)

    now = loss(curve)
    for _ in range(_ITERATIONS):
        p_C = probability(x_C2 @ curve)
        # Where all outputs are one, the slope is free, and the last term holds it.
        hessian = (x_C2.T * (rows_C * p_C * (1 - p_C))) @ x_C2 + 1e-12 * rows * np.eye(2)
        step = np.linalg.solve(hessian, x_C2.T @ (rows_C * p_C - target_C))
        while (then := loss(curve - step)) > now and np.abs(step).max() > _TOLERANCE:
            step /= 2
        curve, now = curve - step, then
        if np.abs(step).max() <= _TOLERANCE:
            break
    if curve[0] < 0:
        curve = np.array([0.0, np.log(rate / (1 - rate))])
    a = float(curve[0]) / scale
    return float(a), float(curve[1] - a * mean)
