"""The known values of a field as a hash table in a file, which all processes of a machine map.

Scoring finds a value by 64 bits of its hash, which Spark takes where the value stands: no string
travels to a Python worker, and a vocabulary of any size lies in memory once. No two known values
have the same hash (``feature_eng.scoring.write_indices`` looks), so each finds its own id; one that
is not known takes the id of a known one with a chance of V / 2**64 (V = 10 million: 5e-13).

The table is open addressing with linear probing, at most half full. Shapes: V = known values, C =
slots, n = values to look up.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from conf.manifest import UNKNOWN

Array = npt.NDArray[Any]

_EMPTY = 0  # no known value has this id
_BLOCK = 1024


@dataclass(frozen=True)
class ValueIndex:
    """The ids of a field's known values.

    Attributes:
        slots: Hash and id: int64 [C, 2], C a power of 2.
    """

    slots: Array

    @classmethod
    def of(cls, hashes: Array, ids: Array) -> "ValueIndex":
        """Build it; of several values with the same hash one is left.

        Args:
            hashes: Of the known values, int64 [V].
            ids: Theirs, int32 [V].
        """
        slots = np.zeros((1 << max(1, 2 * len(ids) - 1).bit_length(), 2), np.int64)
        _insert(hashes, ids, slots)
        return cls(slots)

    def __len__(self) -> int:
        """How many values it holds."""
        return int(np.count_nonzero(self.slots[:, 1] != _EMPTY))

    def save(self, path: str) -> None:
        """Write it as a file."""
        np.save(path, self.slots)

    @classmethod
    def load(cls, path: str) -> "ValueIndex":
        """Map the file that ``save`` wrote."""
        slots: Array = np.load(path, mmap_mode="r")
        return cls(slots.view(np.ndarray))  # numba compiles for arrays, not for a class of numpy's

    def find(self, hashes: Array, oov_buckets: int) -> Array:
        """The ids of values, by their hash also those that are not known: int32 [n].

        Args:
            hashes: Of the values, int64 [n].
            oov_buckets: How many ids those that are not known share.
        """
        found = np.empty(len(hashes), np.int32)
        _find(hashes, self.slots, oov_buckets, found)
        return found


@njit(nogil=True, cache=True)
def _insert(hashes: Array, ids: Array, slots: Array) -> None:
    mask = len(slots) - 1
    for value in range(len(hashes)):
        place = hashes[value] & mask
        while slots[place, 1] != _EMPTY and slots[place, 0] != hashes[value]:
            place = (place + 1) & mask
        slots[place, 0], slots[place, 1] = hashes[value], ids[value]


@njit(nogil=True, cache=True)
def _find(hashes: Array, slots: Array, oov_buckets: int, found: Array) -> None:
    mask = len(slots) - 1
    firsts = np.empty(_BLOCK, np.int64)
    for block in range(0, len(hashes), _BLOCK):
        rows = min(_BLOCK, len(hashes) - block)
        # The slots of a block are read one after the other, so that their cache misses overlap.
        for row in range(rows):
            firsts[row] = slots[hashes[block + row] & mask, 0]
        for row in range(rows):
            wanted, first = hashes[block + row], firsts[row]
            place = wanted & mask
            while slots[place, 1] != _EMPTY and first != wanted:
                place = (place + 1) & mask
                first = slots[place, 0]
            known = slots[place, 1]
            found[block + row] = UNKNOWN + wanted % oov_buckets if known == _EMPTY else known
