"""Spark's xxhash64 (Collet 2012) in Python workers, where values lie in columns of Arrow.

Each value is hashed with a seed of its own, in Spark the hash of what stands before it; the first
has 42. V = values.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

Array = npt.NDArray[Any]

_1, _2, _3, _4, _5 = (
    np.uint64(prime)
    for prime in (
        *(0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9),
        *(0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5),
    )
)
_WORD, _LANES = 8, 32  # bytes
FIRST_SEED = np.array([42], np.uint64)  # of what nothing stands before


def hash_texts(seeds: Array, texts: pa.Array) -> Array:
    """Hash texts, none of them null, as Spark does: uint64 [V].

    Args:
        seeds: uint64 [V], or [1] for all.
        texts: Strings [V].
    """
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return _hash_texts(seeds, np.frombuffer(content or b"", np.uint8), ends)


@njit(nogil=True, cache=True)
def hash_ints(seeds: Array, numbers: Array) -> Array:
    """Hash numbers of Spark's type int: uint64 [V].

    Args:
        seeds: uint64 [V], or [1] for all.
        numbers: int32 [V].
    """
    hashes = np.empty(len(numbers), np.uint64)
    for place in range(len(numbers)):
        h = seeds[place % len(seeds)] + _5 + np.uint64(4)
        hashes[place] = _final(_half_word(h, np.uint64(np.uint32(numbers[place]))))
    return hashes


@njit(nogil=True, cache=True)
def _hash_texts(seeds: Array, content: Array, ends: Array) -> Array:
    hashes = np.empty(len(ends) - 1, np.uint64)
    for text in range(len(hashes)):
        seed, at, end = seeds[text % len(seeds)], ends[text], ends[text + 1]
        size = np.uint64(end - at)
        if end - at >= _LANES:
            a, b, c, d = seed + _1 + _2, seed + _2, seed, seed - _1
            while at <= end - _LANES:
                a = _round(a, _read(content, at, 8))
                b = _round(b, _read(content, at + 8, 8))
                c = _round(c, _read(content, at + 16, 8))
                d = _round(d, _read(content, at + 24, 8))
                at += _LANES
            h = _turned(a, 1) + _turned(b, 7) + _turned(c, 12) + _turned(d, 18)
            for lane in (a, b, c, d):
                h = (h ^ _round(np.uint64(0), lane)) * _1 + _4
        else:
            h = seed + _5
        h += size
        while at <= end - _WORD:
            h = _turned(h ^ _round(np.uint64(0), _read(content, at, 8)), 27) * _1 + _4
            at += _WORD
        if at <= end - 4:
            h = _half_word(h, _read(content, at, 4))
            at += 4
        while at < end:
            h = _turned(h ^ np.uint64(content[at]) * _5, 11) * _1
            at += 1
        hashes[text] = _final(h)
    return hashes


@njit(inline="always")
def _read(content: Array, at: Any, size: int) -> Any:
    word = np.uint64(0)
    for place in range(size):
        word |= np.uint64(content[at + place]) << np.uint64(8 * place)
    return word


@njit(inline="always")
def _turned(h: Any, bits: int) -> Any:
    return (h << np.uint64(bits)) | (h >> np.uint64(64 - bits))


@njit(inline="always")
def _round(h: Any, word: Any) -> Any:
    return _turned(h + word * _2, 31) * _1


@njit(inline="always")
def _half_word(h: Any, word: Any) -> Any:
    return _turned(h ^ word * _1, 23) * _2 + _3


@njit(inline="always")
def _final(h: Any) -> Any:
    h = (h ^ (h >> np.uint64(33))) * _2
    h = (h ^ (h >> np.uint64(29))) * _3
    return h ^ (h >> np.uint64(32))
