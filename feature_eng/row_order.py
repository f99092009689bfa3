"""The order of rows: a hash of all that a row holds, in which the raw table's layout cannot show.

Spark hashes a row's keys; the columns are hashed into that here, each text once per chunk.
Shapes: n = rows, L = values per row, V = texts.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from feature_eng.xxhash64 import FIRST_SEED, hash_texts

Array = npt.NDArray[Any]

# The finaliser of splitmix64 (Steele, Lea, Flood 2014).
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_NONE = np.uint64(0)


def mix_in_numbers(order: Array, numbers: Array) -> None:
    """Hash a column of numbers into the order of its rows.

    Args:
        order: uint64 [n], in place.
        numbers: float64 [n].
    """
    # A row of one code each: its own place.
    _mix_in(order, np.arange(len(order), dtype=np.int32).reshape(-1, 1), numbers.view(np.uint64))


def mix_in_texts(order: Array, codes_nL: Array, texts: pa.Array) -> None:
    """Hash a column of texts into the order of its rows.

    Args:
        order: uint64 [n], in place.
        codes_nL: Places among the texts, int32 [n, L]; -1 for none.
        texts: Strings [V], none of them null.
    """
    _mix_in(order, codes_nL, hash_texts(FIRST_SEED, texts))


@njit(nogil=True, cache=True)
def _mix_in(order: Array, codes_nL: Array, hashes: Array) -> None:
    for row in range(len(order)):
        mixed = order[row]
        for slot in range(codes_nL.shape[1]):
            code = codes_nL[row, slot]
            mixed = (mixed + _GAMMA) ^ (hashes[code] if code >= 0 else _NONE)
            mixed = (mixed ^ (mixed >> _30)) * _FIRST
            mixed = (mixed ^ (mixed >> _27)) * _SECOND
            mixed = mixed ^ (mixed >> _31)
        order[row] = mixed
