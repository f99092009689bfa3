import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.manifest import FieldSpec
from nfm.batch import assemble
from nfm.layout import Layout
from tests.unit.test_batch import field

KINDS = st.sampled_from(["categorical", "bucketised", "numeric", "multi_valued"])


@st.composite
def field_lists(draw: st.DrawFn) -> list[FieldSpec]:
    fields, offset = [], 0
    for number in range(draw(st.integers(1, 8))):
        kind = draw(KINDS)
        cardinality = 1 if kind == "numeric" else draw(st.integers(2, 1000))
        length = draw(st.integers(1, 5)) if kind == "multi_valued" else 1
        made = field(f"f{number}", kind, cardinality, offset, length)
        weighting = draw(st.sampled_from(["one", "mean", "sqrt"]))
        fields.append(made.model_copy(update={"weighting": weighting}))
        offset += cardinality
    return fields


@settings(deadline=None)  # the first example compiles
@given(field_lists(), st.integers(0, 70), st.integers(0, 2**32 - 1), st.booleans())
def test_packed_rows_become_the_batches_that_their_columns_would(
    fields: list[FieldSpec], rows: int, seed: int, weighted: bool
) -> None:
    rng = np.random.default_rng(seed)
    columns = {
        name: rng.normal(size=rows).astype(np.float32) for name in ("label", "sample_weight")
    }
    for spec in fields:
        if spec.kind == "numeric":
            columns[spec.name] = rng.normal(size=rows).astype(np.float32)
        elif spec.kind == "multi_valued":
            ids = rng.integers(-1, spec.cardinality, (rows, spec.length))
            ids[:, 0] = np.abs(ids[:, 0])  # a list holds one value at least
            columns[spec.name] = ids.astype(np.int32)
        else:
            columns[spec.name] = rng.integers(0, spec.cardinality, rows).astype(np.int32)
    layout = Layout(fields, weighted=weighted)
    packed_RS = layout.room(rows)
    layout.pack(columns, packed_RS)
    order = rng.integers(0, max(rows, 1), 2 * rows)
    ids = np.empty((len(order), layout.slots), np.int32)
    x = np.empty_like(ids, np.float32)
    label, weight = np.empty((2, len(order)), np.float32)
    layout.unpack(packed_RS, order, ids, x, label, weight if weighted else None)
    expected_ids, expected_x = assemble(columns, fields)
    np.testing.assert_array_equal(ids, expected_ids[order])
    np.testing.assert_array_equal(x, expected_x[order])
    np.testing.assert_array_equal(label, columns["label"][order])
    if weighted:
        np.testing.assert_array_equal(weight, columns["sample_weight"][order])


@pytest.mark.parametrize("number", [0.0, -0.0, np.nan, np.inf, 1e-45, -3.5])
def test_numbers_keep_their_bits(number: float) -> None:
    layout = Layout([field("x", "numeric", 1, 0)])
    packed_RS = layout.room(1)
    column = np.array([number], np.float32)
    layout.pack({"x": column, "label": column}, packed_RS)
    ids, x, label = np.empty((1, 1), np.int32), np.empty((1, 1), np.float32), np.empty_like(column)
    layout.unpack(packed_RS, np.array([0]), ids, x, label)
    assert x.tobytes() == label.tobytes() == column.tobytes()
