"""The table of known values against a dictionary of Python's."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.manifest import UNKNOWN
from feature_eng.value_index import ValueIndex

# Some that share their low bits, and with them the slots they are put into.
bits = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-9, 9).map(lambda n: n * 2**40),
    st.integers(-9, 9),
)


def index_of(known: dict[int, int]) -> ValueIndex:
    return ValueIndex.of(np.array([*known], np.int64), np.array([*known.values()], np.int32))


@settings(deadline=None)  # the first example compiles the loops
@given(
    known=st.lists(bits, unique=True, max_size=30),
    asked=st.lists(bits, max_size=30),
    oov_buckets=st.integers(1, 5),
)
def test_it_finds_what_a_dictionary_finds(
    known: list[int], asked: list[int], oov_buckets: int
) -> None:
    ids = {value: number for number, value in enumerate(known, UNKNOWN + oov_buckets)}
    asked = [*known, *asked, 0]
    index = index_of(ids)
    found = index.find(np.array(asked, np.int64), oov_buckets)
    assert found.tolist() == [ids.get(v, UNKNOWN + v % oov_buckets) for v in asked]
    assert len(index) == len(known)


def test_many_values_out_of_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**63), 2**63, 12_000)
    ids = dict(zip(values[:10_000].tolist(), range(2, 10_002), strict=True))
    index_of(ids).save(f"{tmp_path}/field.npy")
    index = ValueIndex.load(f"{tmp_path}/field.npy")
    asked = rng.permutation(values)
    for part in (asked, asked[5_000:5_010], asked[::7], asked[3:3]):
        assert index.find(part, 1).tolist() == [ids.get(value, UNKNOWN) for value in part.tolist()]
    with pytest.raises(ValueError, match="read-only"):
        index.slots[0] = 1  # pages that processes share


def test_a_hash_is_held_once() -> None:
    assert len(ValueIndex.of(np.array([5, 6, 5]), np.array([2, 3, 4], np.int32))) == 2
