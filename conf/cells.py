"""Cells: how scores are spread, in counts that add up and mean the same for every model.

A cell holds the numbers whose float32 starts with the same 16 bits (sign, exponent and 7 bits of
the mantissa, as in bfloat16): its width is below 1% of its numbers, whatever their size. Cells are
numbered so that they rise with the numbers.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Cells = dict[int, int]


def count_cells(scores: npt.NDArray[np.float64]) -> Cells:
    """Rows by cell.

    Args:
        scores: Finite numbers [n].

    Example:
        >>> list(count_cells(np.array([0.5, 0.5, 0.25])).values())
        [1, 2]
    """
    bits = scores.astype(np.float32).view(np.int32) >> 16
    # A negative number's bits rise as it falls.
    cells, counts = np.unique(np.where(bits < 0, -1 - (bits & 0x7FFF), bits), return_counts=True)
    return dict(zip(cells.tolist(), counts.tolist(), strict=True))


def add_cells(parts: Iterable[Cells]) -> Cells:
    """The rows of all parts by cell, in ascending order."""
    total: Cells = {}
    for part in parts:
        for cell, count in part.items():
            total[cell] = total.get(cell, 0) + count
    return dict(sorted(total.items()))


def as_pairs(cells: Cells) -> list[list[int]]:
    """For JSON, whose keys are text."""
    return [[cell, count] for cell, count in sorted(cells.items())]


def from_pairs(pairs: Sequence[Sequence[int]]) -> Cells:
    """The way back."""
    return {pair[0]: pair[1] for pair in pairs}
