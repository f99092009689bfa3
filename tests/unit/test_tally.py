"""What is counted of rows, chunk by chunk, against pandas over all of them."""

import numpy as np
import pyarrow as pa
import pytest

from conf.schema import SPLITS
from feature_eng.tally import Moments, Tally
from tests.unit.test_batch import field

FIELDS = [
    field("price", "numeric", 1, 0),
    field("age", "bucketised", 9, 1),
    field("tags", "multi_valued", 9, 10, length=2),
    field("user", "categorical", 9, 19),
]


def rows(seed: int, count: int) -> pa.Table:
    rng = np.random.default_rng(seed)

    def some(values: np.ndarray, share: float) -> pa.Array:
        return pa.array(values, mask=rng.random(count) < share)

    # far from 0 beside their spread, which sums of squares would lose
    numbers = 1e6 + rng.normal(size=count)
    lists = [None if k == 4 else ["t"] * k for k in rng.integers(0, 5, count).tolist()]
    return pa.table(
        {
            "label": some(rng.choice([0.0, 1.0, 2.0], count, p=[0.6, 0.3, 0.1]), 0.1),
            "sample_weight": some((rng.random(count) - 0.2).astype(np.float32), 0.1),
            "price": some(numbers, 0.3),
            "age": some(rng.integers(0, 90, count).astype(np.float64), 0.1),
            "tags": pa.array(lists, pa.list_(pa.string())),
            "user": pa.array(["u"] * count, pa.string()),
            "_split": pa.array(rng.integers(-1, 3, count), pa.int32()),
        }
    )


def test_parts_add_up_to_what_pandas_finds() -> None:
    parts = [rows(seed, count) for seed, count in ((1, 500), (2, 1), (3, 0), (4, 300))]
    told = [Tally.from_json(Tally.of(part, FIELDS).to_json()) for part in parts]
    counts, moments = Tally.total(told)
    whole = pa.concat_tables(parts).to_pandas()
    label, weight = whole["label"], whole["sample_weight"]
    expected = {
        "rows": 801,
        "no_split": (whole["_split"] == -1).sum(),
        "not_binary": (label == 2).sum(),
        "null:label": label.isna().sum(),
        "negative:label": 0,
        "null:sample_weight": weight.isna().sum(),
        "negative:sample_weight": (weight < 0).sum(),
    }
    for code, split in enumerate(SPLITS):
        mine = whole[whole["_split"] == code]
        expected[f"rows:{split}"] = len(mine)
        expected[f"positives:{split}"] = (mine["label"] == 1).sum()
        expected[f"missing:{split}:price"] = mine["price"].isna().sum()
        too_long = [tags is not None and len(tags) > 2 for tags in mine["tags"]]
        expected[f"truncated:{split}:tags"] = sum(too_long)
    assert {name: counts[name] for name in expected} == expected
    assert not counts.keys() - expected.keys()
    trains = whole[whole["_split"] == 0]
    assert set(moments) == {"label", "sample_weight", "price", "age"}
    for name, found in moments.items():
        values = trains[name].astype(np.float64)
        assert (found.least, found.greatest) == (values.min(), values.max())
        assert found.size == values.count()
        assert found.mean == pytest.approx(values.mean(), rel=1e-14)
        assert found.squares == pytest.approx(values.var(ddof=0) * found.size, rel=1e-9)


def test_moments_of_no_numbers_change_nothing() -> None:
    none, some = Moments.of(np.array([])), Moments.of(np.array([1.0, 3.0]))
    assert some == (2, 2.0, 2.0, 1.0, 3.0)
    assert none.merged(some) == some.merged(none) == some
    assert none.merged(none) == none
