"""The known values of a field as a hash table in files, which all processes of a machine map.

Scoring looks every value up where it stands in Arrow's buffers: no string becomes a Python object,
none travels twice, and a vocabulary of any size lies in memory once. The table is open addressing
with linear probing, at most half full; a slot holds 32 bits of the hash and the number of an entry,
whose bytes decide. Shapes: E = entries, C = slots, n = values to look up.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

Array = npt.NDArray[Any]

NOT_KNOWN = -1
_PARTS = ("slots", "ids", "ends", "text")
_EMPTY = 0  # entries are numbered from 1
_BLOCK = 1024
# FNV-1a (Fowler, Noll, Vo), 64 bits.
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class ValueIndex:
    """The ids of a field's known values.

    Attributes:
        slots: Hash and entry: uint64 [C], C a power of 2.
        ids: Of the entries, int32 [E].
        ends: Where each entry's bytes end, after those of all before it: int64 [E + 1].
        text: The bytes of all entries.
    """

    slots: Array
    ids: Array
    ends: Array
    text: Array

    @classmethod
    def of(cls, values: pa.ChunkedArray, ids: pa.ChunkedArray) -> "ValueIndex":
        """Build it.

        Args:
            values: The known values, none of them null, each once: string [E].
            ids: Theirs, int32 [E].
        """
        ends, text = _buffers(values.cast(pa.large_string()).combine_chunks(), np.int64)
        slots = np.zeros(1 << max(1, 2 * len(values) - 1).bit_length(), np.uint64)
        _insert(ends, text, slots)
        return cls(slots, ids.to_numpy().astype(np.int32), ends - ends[0], text[ends[0] :])

    def save(self, path: str) -> None:
        """Write it as files whose names begin with ``path``."""
        for part in _PARTS:
            np.save(f"{path}.{part}.npy", getattr(self, part))

    @classmethod
    def load(cls, path: str) -> "ValueIndex":
        """Map the files that ``save`` wrote."""
        return cls(*(_map(Path(f"{path}.{part}.npy")) for part in _PARTS))

    def find(self, values: pa.StringArray) -> Array:
        """The id of each value, ``NOT_KNOWN`` for others and for null: int32 [n]."""
        found = np.empty(len(values), np.int32)
        _find(*_buffers(values, np.int32), self.slots, self.ids, self.ends, self.text, found)
        if values.null_count:
            found[values.is_null().to_numpy(zero_copy_only=False)] = NOT_KNOWN
        return found


def _buffers(values: pa.Array, offset: type) -> tuple[Array, Array]:
    """Where each value ends in the bytes of all, and these, as Arrow holds them."""
    _, ends, text = values.buffers()
    if ends is None:
        return np.zeros(1, offset), np.empty(0, np.uint8)
    bounds: Array = np.frombuffer(ends, offset)[values.offset : values.offset + len(values) + 1]
    return bounds, np.frombuffer(text or b"", np.uint8)


def _map(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r")
    return array.view(np.ndarray)  # numba compiles for arrays, not for a class of numpy's


@njit(nogil=True, cache=True)
def _hash(text: Array, start: int, end: int) -> np.uint64:
    code = _BASIS
    for position in range(start, end):
        code = (code ^ np.uint64(text[position])) * _PRIME
    return code ^ (code >> np.uint64(29))  # a slot is chosen by low bits, which mix least


@njit(nogil=True, cache=True)
def _insert(ends: Array, text: Array, slots: Array) -> None:
    mask = np.uint64(len(slots) - 1)
    for entry in range(len(ends) - 1):
        code = _hash(text, ends[entry], ends[entry + 1])
        place = code & mask
        while slots[place] != _EMPTY:
            place = (place + np.uint64(1)) & mask
        slots[place] = (code & ~_LOW) | np.uint64(entry + 1)


@njit(nogil=True, cache=True)
def _find(
    bounds: Array,
    bytes_: Array,
    slots: Array,
    ids: Array,
    ends: Array,
    text: Array,
    found: Array,
) -> None:
    mask = np.uint64(len(slots) - 1)
    codes, firsts = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    for block in range(0, len(found), _BLOCK):
        rows = min(_BLOCK, len(found) - block)
        # The slots of a block are read one after the other, so that their cache misses overlap.
        for row in range(rows):
            codes[row] = _hash(bytes_, bounds[block + row], bounds[block + row + 1])
        for row in range(rows):
            firsts[row] = slots[codes[row] & mask]
        for row in range(rows):
            start, end = bounds[block + row], bounds[block + row + 1]
            code, slot = codes[row], firsts[row]
            place = code & mask
            found[block + row] = NOT_KNOWN
            while slot != _EMPTY:
                if (slot ^ code) <= _LOW:  # the upper halves are equal
                    entry = np.int64(slot & _LOW) - 1
                    if _same(text, ends[entry], ends[entry + 1], bytes_, start, end):
                        found[block + row] = ids[entry]
                        break
                place = (place + np.uint64(1)) & mask
                slot = slots[place]


@njit(nogil=True, cache=True)
def _same(one: Array, start: int, end: int, other: Array, first: int, last: int) -> bool:
    same = end - start == last - first
    position = 0
    while same and position < end - start:
        same = one[start + position] == other[first + position]
        position += 1
    return same
