"""Cells of ids against a table written by hand."""

import numpy as np
import pytest

from conf.manifest import FieldSpec
from feature_eng.histogram import histogram
from tests.unit.test_batch import field

VALUED = field("f", "categorical", 100, 0)
LISTS = field("f", "multi_valued", 100, 0, 2).model_copy(update={"oov_buckets": 3})
HASHED = field("f", "hashed", 257, 0).model_copy(update={"oov_buckets": 256})
BUCKETS = field("f", "bucketised", 6, 0)


@pytest.mark.parametrize(
    ("of", "ids", "cardinality", "expected"),
    [
        # 0 is missing, 1 unknown; then ranks 1, 2-3, 4-7, ...
        (VALUED, [0, 0, 1, 2, 3, 4, 5, 8, 9, 99], 100, [2, 1, 1, 2, 2, 1, 0, 0, 1]),
        (VALUED, [2, 3, 4, 99], 4, [0, 2, 1, 1]),  # what the base does not have is unknown
        (VALUED, [], 100, [0, 0]),
        (VALUED, [0, 0], 100, [2, 0]),
        # 1 to 3 are unknown
        (LISTS, [[0, -1], [1, 3], [4, 5], [6, -1]], 100, [1, 2, 1, 2]),
        # 256 buckets, by fours
        (HASHED, [0, 1, 4, 5, 256, 256], 257, [1, 0, 2, 1, *[0] * 61, 2]),
        (BUCKETS, [0, 2, 2, 5], 6, [1, 0, 2, 0, 0, 1]),
    ],
)
def test_cells(of: FieldSpec, ids: list[int], cardinality: int, expected: list[int]) -> None:
    assert histogram(np.array(ids, np.int32), of, cardinality).tolist() == expected
