"""Metrics of predicted rows, each from one tally; docs/metrics.md has formulas and sources.

A metric that does not exist for the objective, or on these rows (an AUC where one class is
missing), is left out of what is returned, or NaN in a table's column.

Shapes: N = entries of a tally, C = cells of entries with the same output (and group), G = groups.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from conf.manifest import MISSING, FieldSpec
from nfm.objective import Objective
from nfm.tally import Tally, starts_of, sums

Array = npt.NDArray[Any]

NUM_BINS = 10  # of the reliability table
_ORDER = (
    *("auc", "gauc", "gauc_keys", "gauc_keys_left_out", "gauc_rows", "pr_auc"),
    *("logloss", "normalised_entropy", "rmse", "ece", "predicted_to_observed"),
    *("rows", "positives"),
)


def metrics(
    tally: Tally, objective: Objective, group_by: FieldSpec | None = None
) -> dict[str, float]:
    """All metrics that are one number.

    Args:
        tally: At least one row, by the ids of ``group_by`` if it is given; outputs are finite.
        objective: Says what the outputs are.
        group_by: The field of GAUC.
    """
    one = np.zeros_like(tally.count_N)
    columns = _of_groups(objective, tally.output_N, tally.label_N, tally.count_N, one)
    whole = {name: column[0].item() for name, column in columns.items()}
    if objective.task == "binary":
        whole["pr_auc"] = _average_precision(tally)
    if objective.probabilistic:
        whole["normalised_entropy"] = _normalised(whole)
        whole["ece"] = _calibration_error(reliability(tally, objective))
    if group_by:
        whole |= _gauc(by_group(tally, objective, group_by.name), group_by)
    return {name: whole[name] for name in _ORDER if not np.isnan(whole.get(name, np.nan))}


def by_group(tally: Tally, objective: Objective, name: str) -> dict[str, Array]:
    """The rows of each value of a field, and their metrics.

    Returns:
        Columns [G]: ``id`` ascending, ``rows``, ``rmse``; of a binary task ``positives`` and
        ``auc``; where there are probabilities ``logloss`` and ``predicted_to_observed``.
    """
    id_N = tally.ids[name]
    order = np.argsort(id_N, kind="stable")  # within an id, outputs still ascend
    columns = (tally.output_N, tally.label_N, tally.count_N, id_N)
    return _of_groups(objective, *(column[order] for column in columns))


def reliability(tally: Tally, objective: Objective) -> dict[str, Array]:
    """Mean probability beside the share of positives, in at most ten bins of about as many rows.

    Bins are cut along the order of the outputs. Equal outputs stay in one bin: that in which the
    middle one of their rows lies.

    Returns:
        Columns, a row per bin: ``lowest`` and ``highest`` probability in it, ``rows``,
        ``predicted`` (mean probability), ``observed`` (share of positives).
    """
    starts = starts_of(tally.output_N)
    rows_C = sums(tally.count_N, starts)
    # Twice the rank of the middle row, so that all is whole numbers.
    middle_C = 2 * np.cumsum(rows_C) - rows_C
    bin_C = np.minimum(NUM_BINS * middle_C // (2 * tally.rows), NUM_BINS - 1)
    first = starts[starts_of(bin_C)]
    last = np.append(first[1:], len(tally.output_N)) - 1
    p_N = objective.scores(tally.output_N)
    rows = sums(tally.count_N, first)
    return {
        "lowest": p_N[first],
        "highest": p_N[last],
        "rows": rows,
        "predicted": sums(tally.count_N * p_N, first) / rows,
        "observed": sums(tally.count_N * tally.label_N, first) / rows,
    }


def _gauc(groups: dict[str, Array], field: FieldSpec) -> dict[str, float]:
    """AUC within each value of a field, weighted by its rows (Zhu et al. 2017, Zhou et al. 2018).

    Missing and unknown stand for no one value; values with one class have no order.
    """
    first = field.first_known if field.has_vocabulary else MISSING + 1
    is_value = groups["id"] >= first
    counted = is_value & ~np.isnan(groups["auc"])
    rows = groups["rows"][counted]
    return {
        "gauc": float(np.average(groups["auc"][counted], weights=rows)) if len(rows) else np.nan,
        "gauc_keys": int(counted.sum()),
        "gauc_keys_left_out": int((is_value & ~counted).sum()),
        "gauc_rows": int(rows.sum()),
    }


def _average_precision(tally: Tally) -> float:
    """Sum over the distinct outputs, descending, of precision times the rise of the recall."""
    starts = starts_of(tally.output_N)
    positives_N = tally.count_N * (tally.label_N == 1)
    positives_C, rows_C = (sums(column, starts)[::-1] for column in (positives_N, tally.count_N))
    total = positives_C.sum()
    if not total:
        return np.nan
    precision_C = np.cumsum(positives_C) / np.cumsum(rows_C)
    return float((positives_C * precision_C).sum() / total)


def _normalised(whole: dict[str, float]) -> float:
    """Logloss over that of the share of positives as every row's prediction (He et al. 2014)."""
    rate = whole["positives"] / whole["rows"]
    if not 0 < rate < 1:
        return np.nan
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return float(whole["logloss"] / entropy)


def _calibration_error(table: dict[str, Array]) -> float:
    """Mean distance of a bin's probability from its share of positives, by the bins' rows."""
    gaps = np.abs(table["predicted"] - table["observed"])
    return float(np.average(gaps, weights=table["rows"]))


def _of_groups(
    objective: Objective, output_N: Array, label_N: Array, count_N: Array, group_N: Array
) -> dict[str, Array]:
    """See ``by_group``; entries ascend by group, within it by output."""
    starts = starts_of(group_N)
    rows = sums(count_N, starts)
    label_N = label_N.astype(np.float64)
    estimates_N = objective.estimates(output_N)
    squared_N = (estimates_N - objective.targets(label_N)) ** 2
    found = {
        "id": group_N[starts],
        "rows": rows,
        "rmse": np.sqrt(sums(count_N * squared_N, starts) / rows),
    }
    if objective.task == "binary":
        positives_N = count_N * (label_N == 1)
        found["positives"] = sums(positives_N, starts)
        found["auc"] = _auc_of_groups(output_N, positives_N, count_N - positives_N, group_N)
    if objective.probabilistic:
        logits_N = output_N.astype(np.float64)
        losses_N = np.logaddexp(0.0, logits_N) - label_N * logits_N
        found["logloss"] = sums(count_N * losses_N, starts) / rows
        expected = sums(count_N * estimates_N, starts)
        found["predicted_to_observed"] = _ratio(expected, found["positives"])
    return found


def _auc_of_groups(
    output_N: Array, positives_N: Array, negatives_N: Array, group_N: Array
) -> Array:
    """The AUC within each group [G]: U of Mann and Whitney over all pairs, ties counted half.

    NaN where one class is missing.
    """
    starts = starts_of(group_N, output_N)
    positives_C, negatives_C = sums(positives_N, starts), sums(negatives_N, starts)
    groups = starts_of(group_N[starts])
    cells_G = np.diff(np.append(groups, len(starts)))
    below_C = np.cumsum(negatives_C) - negatives_C
    below_C -= np.repeat(below_C[groups], cells_G)
    # Twice the pairs in the right order, a tie being half one: whole numbers, so exact.
    right_G = sums(positives_C * (2 * below_C + negatives_C), groups)
    return _ratio(right_G, 2 * sums(positives_C, groups) * sums(negatives_C, groups))


def _ratio(above: Array, below: Array) -> Array:
    """NaN where it does not exist."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
