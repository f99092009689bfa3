import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from conf.manifest import FieldSpec
from nfm.batch import assemble
from nfm.layers import bi_interaction


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


def test_a_value_that_comes_twice_is_one_feature() -> None:
    """By the equation of the FM: it is in no pair with itself."""
    tags = field("tags", "multi_valued", 6, 10, length=5)
    lists = [[3, 1, 3, 3, -1], [1, 0, 1, 0, 0], [2, 2, -1, -1, -1], [4, 2, -1, -1, -1]]
    ids, x = assemble({"tags": np.array(lists, dtype=np.int32)}, [tags])
    assert ids[:3].tolist() == [[13, 11, 10, 10, 10], [11, 10, 10, 10, 10], [12, 10, 10, 10, 10]]
    np.testing.assert_allclose(
        x, [[0.75, 0.25, 0, 0, 0], [0.4, 0.6, 0, 0, 0], [1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0]]
    )
    table_VK = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    found = bi_interaction(table_VK[torch.from_numpy(ids)] * torch.from_numpy(x)[:, :, None])
    for row, values in zip(found, lists, strict=True):
        count = Counter(value for value in values if value >= 0)
        pairs = [
            table_VK[10 + one] * table_VK[10 + other] * count[one] * count[other]
            for one, other in itertools.combinations(count, 2)
        ]
        expected = sum(pairs, torch.zeros(3)) / count.total() ** 2
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=1e-5)
