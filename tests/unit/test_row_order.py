"""The order of rows against the same hashes in Python's own integers."""

import numpy as np
import pyarrow as pa

from feature_eng.row_order import mix_in_numbers, mix_in_texts
from tests.unit.test_xxhash64 import xxh64

MASK = 2**64 - 1
TEXTS = ["", "a", "Zürich", "b" * 100]


def mixed(state: int, value: int) -> int:
    """The next number of splitmix64, whose state is its last one, with a value in it."""
    z = (state + 0x9E3779B97F4A7C15 & MASK) ^ value
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def test_texts_and_numbers_are_hashed_into_the_order() -> None:
    rng = np.random.default_rng(3)
    before = rng.integers(0, 2**64, 50, np.uint64)
    codes_nL = rng.integers(-1, len(TEXTS), (50, 3)).astype(np.int32)
    numbers = np.where(rng.random(50) < 0.2, np.nan, rng.normal(size=50))
    order = before.copy()
    mix_in_texts(order, codes_nL, pa.array(["cut off", *TEXTS])[1:])
    mix_in_numbers(order, numbers)
    for row, state in enumerate(before.tolist()):
        for code in codes_nL[row].tolist():
            state = mixed(state, xxh64(TEXTS[code].encode(), 42) if code >= 0 else 0)
        bits = int.from_bytes(np.float64(numbers[row]).tobytes(), "little")
        assert order[row] == mixed(state, bits)


def test_a_chunk_without_any_text_is_ordered() -> None:
    order = np.zeros(2, np.uint64)
    mix_in_texts(order, np.full((2, 1), -1, np.int32), pa.array([], pa.string()))
    assert order.tolist() == [mixed(0, 0)] * 2
