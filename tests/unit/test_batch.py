import numpy as np
import pytest

from conf.manifest import FieldSpec
from nfm.batch import assemble


def field(name: str, kind: str, cardinality: int, offset: int, length: int = 1) -> FieldSpec:
    return FieldSpec.model_validate(
        {
            "name": name,
            "kind": kind,
            "source": name,
            "is_expr": False,
            "cardinality": cardinality,
            "offset": offset,
            "length": length,
        }
    )


def test_assemble_against_a_table_by_hand() -> None:
    fields = [
        field("colour", "categorical", 5, 0),
        field("price", "numeric", 1, 5),
        field("tags", "multi_valued", 6, 6, length=3),
        field("age", "bucketised", 4, 12),
    ]
    columns = {
        "colour": np.array([0, 4], dtype=np.int32),
        "price": np.array([-1.5, 0.0], dtype=np.float32),
        "tags": np.array([[2, 5, -1], [0, -1, -1]], dtype=np.int32),
        "age": np.array([3, 2], dtype=np.int32),
    }
    ids, x = assemble(columns, fields)
    assert (ids.dtype, x.dtype) == (np.int32, np.float32)
    assert ids.tolist() == [[0, 5, 8, 11, 6, 15], [4, 5, 6, 6, 6, 14]]
    assert x.tolist() == [[1.0, -1.5, 0.5, 0.5, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("weighting", "weights"), [("one", [1.0, 1.0]), ("mean", [0.5, 1.0]), ("sqrt", [0.5**0.5, 1.0])]
)
def test_values_of_a_list_are_weighted(weighting: str, weights: list[float]) -> None:
    tags = field("tags", "multi_valued", 6, 0, length=3)
    columns = {"tags": np.array([[2, 5, -1], [0, -1, -1]], dtype=np.int32)}
    _, x = assemble(columns, [tags.model_copy(update={"weighting": weighting})])
    two, one = weights
    np.testing.assert_allclose(x, [[two, two, 0], [one, 0, 0]], rtol=1e-7)
