"""How a field's ids are spread: what rates of missing and unknown values and drift are told by.

Cells: 0 the missing, 1 the unknown, then the known ids: a bucket has a cell of its own, the buckets
of hashes share up to 64, and the values of a vocabulary are ranked by their ids and lie in cells of
1, 2, 4, 8, ... of them. So a vocabulary of any size has a few dozen cells, each with enough rows to
compare, and frequent values are not lost among rare ones.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from conf.manifest import MISSING, PADDING, UNKNOWN, FieldSpec

Array = npt.NDArray[np.int64]

_HASH_CELLS = 64


def histogram(ids: npt.NDArray[np.int32], field: FieldSpec, cardinality: int) -> Array:
    """Count local ids by cell.

    Args:
        ids: int32 [n] or [n, length], padded with -1.
        field: How they were encoded.
        cardinality: Ids that count as known; the field's own, or an earlier, smaller one.

    Returns:
        Ids per cell: int64 [cells].
    """
    flat = ids.ravel()
    cells = _cells(flat[flat != PADDING], field, cardinality)
    return np.bincount(cells, minlength=2)


def stability_index(expected: Sequence[int] | Array, found: Sequence[int] | Array) -> float:
    """Population stability index of two histograms by cell, the unknown left out."""
    size = max(len(expected), len(found))
    known = np.arange(size) != UNKNOWN
    p, q = (
        np.pad(np.asarray(counts, np.float64), (0, size - len(counts)))[known]
        for counts in (expected, found)
    )
    return index_of_shares(p, q)


def index_of_shares(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Population stability index of two samples' counts in the same cells.

    sum (p - q) ln(p / q) over the cells' shares p and q: the symmetric Kullback-Leibler divergence.
    Half a row is added to each cell, so that an empty one counts for something finite. Two samples
    of n and m rows of one law differ by (cells - 1)(1/n + 1/m) on average (Yurdakul 2018), which is
    taken off: few rows are no drift. By custom below 0.1 is no shift, above 0.25 a large one.
    """
    noise = (len(p) - 1) * (1 / max(1, p.sum()) + 1 / max(1, q.sum()))
    p, q = (p + 0.5) / (p + 0.5).sum(), (q + 0.5) / (q + 0.5).sum()
    return float(max(0.0, ((p - q) * np.log(p / q)).sum() - noise))


def _cells(ids: npt.NDArray[np.int32], field: FieldSpec, cardinality: int) -> Array:
    if field.kind == "bucketised":
        return ids.astype(np.int64)
    if field.kind == "hashed":
        shared = max(1.0, field.oov_buckets / _HASH_CELLS)
        cells = 2 + ((ids - UNKNOWN) / shared).astype(np.int64)
    else:
        # The exponent of a float64, which holds any rank: 2**e <= rank < 2**(e + 1).
        ranks = np.maximum(ids - field.first_known + 1, 1).astype(np.float64)
        cells = 2 + (ranks.view(np.int64) >> 52) - 1023
        cells[(ids < field.first_known) | (ids >= cardinality)] = 1
    cells[ids == MISSING] = 0
    return cells
