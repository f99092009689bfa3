"""The table of known values against a dictionary of Python's."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_eng import value_index
from feature_eng.value_index import NOT_KNOWN, ValueIndex

texts = st.lists(st.text(max_size=6), unique=True, max_size=30)


def index_of(known: dict[str, int]) -> ValueIndex:
    values = pa.chunked_array([pa.array(known, pa.string())])
    return ValueIndex.of(values, pa.chunked_array([pa.array(known.values(), pa.int32())]))


@settings(deadline=None)  # the first example compiles the loops
@given(known=texts, asked=st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=30))
def test_it_finds_what_a_dictionary_finds(known: list[str], asked: list[str | None]) -> None:
    ids = {value: number for number, value in enumerate(known, 2)}
    asked = [*known, *asked, ""]
    found = index_of(ids).find(pa.array(asked, pa.string()))
    assert found.tolist() == [NOT_KNOWN if v is None else ids.get(v, NOT_KNOWN) for v in asked]


def test_slices_and_files(tmp_path: Path) -> None:
    ids = {f"value {n * 7919 % 10_000}": n for n in range(10_000)}
    index_of(ids).save(str(tmp_path / "field"))
    index = ValueIndex.load(str(tmp_path / "field"))
    asked = pa.array([*ids, None, "value", *(f"value {n}" for n in range(10_000, 12_000))])
    for part in (asked, asked[9_990:10_010], asked[12_002:], asked[3:3]):
        expected = [ids.get(value, NOT_KNOWN) for value in part.to_pylist()]
        assert index.find(part).tolist() == expected
    with pytest.raises(ValueError, match="read-only"):
        index.slots[0] = 1  # pages that processes share


def test_values_with_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their bytes: in the loops as plain Python, where all hashes are made equal."""
    for name in ("_insert", "_find", "_same"):
        monkeypatch.setattr(value_index, name, getattr(value_index, name).py_func)
    monkeypatch.setattr(value_index, "_hash", lambda *_: np.uint64(5 << 32 | 1))
    ids = {"a": 2, "b": 3, "ab": 4, "": 5}
    found = index_of(ids).find(pa.array(["ab", "", "b", "a", "c", "ba"]))
    assert found.tolist() == [4, 5, 3, 2, NOT_KNOWN, NOT_KNOWN]
