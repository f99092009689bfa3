"""The stream through a real Petastorm reader, over files that pyarrow wrote."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nfm.batch import Batch
from nfm.stream import stream_batches
from tests.unit.test_batch import field

FIELDS = [
    field("a", "categorical", 1000, 0),
    field("x", "numeric", 1, 1000),
    field("tags", "multi_valued", 10, 1001, length=2),
]
ROWS = [7, 100, 1, 42, 50]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Files whose column ``a`` counts the rows through, in the order of ROWS."""
    written = []
    for number, _rows in enumerate(ROWS):
        a = np.arange(sum(ROWS[:number]), sum(ROWS[: number + 1]), dtype=np.int32)
        table = pa.table(
            {
                "a": a,
                "x": a.astype(np.float32) / 10,
                "tags": pa.array([[int(i % 8) + 2, -1] for i in a], pa.list_(pa.int32())),
                "label": (a % 2).astype(np.float32),
                "unread": [f"text {i}" for i in a],
            }
        )
        # Not in the order of their names: the caller's order must hold.
        path = tmp_path / f"{9 - number}.parquet"
        pq.write_table(table, path)
        written.append(str(path))
    return written


def numbers(batches: list[Batch]) -> list[int]:
    return [int(i) for batch in batches for i in batch.ids_BS[:, 0]]


def test_without_shuffling_rows_come_in_the_order_of_the_files(paths: list[str]) -> None:
    batches = list(stream_batches(paths, FIELDS, batch_rows=16))
    assert numbers(batches) == list(range(sum(ROWS)))
    assert [len(batch) for batch in batches] == [16] * 12 + [8]


def test_columns_stay_together_when_shuffled(paths: list[str]) -> None:
    rng = np.random.default_rng(0)
    batches = list(stream_batches(paths, FIELDS, batch_rows=16, shuffle_rows=90, rng=rng))
    assert sorted(numbers(batches)) == list(range(sum(ROWS)))
    assert numbers(batches) != sorted(numbers(batches))
    for batch in batches:
        a = batch.ids_BS[:, 0]
        np.testing.assert_allclose(batch.x_BS[:, 1], a / 10, rtol=1e-6)
        assert (batch.ids_BS[:, 2] == a % 8 + 2 + 1001).all()
        assert (batch.x_BS[:, 2] == 1).all()
        assert (batch.x_BS[:, 3] == 0).all()
        assert (batch.label_B == a % 2).all()


def test_a_shuffle_mixes_row_groups_and_repeats_with_its_seed(paths: list[str]) -> None:
    first, again, other = (
        numbers(
            list(
                stream_batches(
                    paths,
                    FIELDS,
                    batch_rows=16,
                    shuffle_rows=1000,
                    rng=np.random.default_rng(seed),
                )
            )
        )
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert max(first[:20]) > sum(ROWS[:2]), "the first rows come from the first files only"


def test_no_files_give_no_batches() -> None:
    assert list(stream_batches([], FIELDS, batch_rows=4)) == []
