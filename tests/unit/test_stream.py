"""The stream through a real Petastorm reader, over files that pyarrow wrote."""

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import DataError
from nfm.batch import Batch, assemble
from nfm.epoch_plan import Block
from nfm.stream import stream_batches
from tests.unit.test_batch import field

FIELDS = [
    field("a", "categorical", 100_000, 0),
    field("x", "numeric", 1, 100_000),
    field("tags", "multi_valued", 10, 100_001, length=2),
]
ROWS = [7, 100, 1, 42, 50]
IN_ORDER = [Block((index,), rows, None) for index, rows in enumerate(ROWS)]


def encoded(start: int, end: int) -> pa.Table:
    """Rows of which ``a`` is the number, and all else follows from it."""
    a = np.arange(start, end, dtype=np.int32)
    tags = np.stack([a % 8 + 2, np.where(a % 3, -1, a % 5)], axis=1).astype(np.int32)
    return pa.table(
        {
            "a": a,
            "x": a.astype(np.float32) / 10,
            "tags": pa.array(list(tags), pa.list_(pa.int32())),
            "label": (a % 2).astype(np.float32),
            "sample_weight": a.astype(np.float32) / 4,
            "unread": [f"text {i}" for i in a],
        }
    )


def write(directory: Path, file_rows: Sequence[int]) -> list[str]:
    """Files whose rows are numbered through; not in the order of their names, for ours counts."""
    ends = np.cumsum(file_rows)
    paths = [directory / f"{len(ends) - number}.parquet" for number in range(len(ends))]
    for path, rows, end in zip(paths, file_rows, ends, strict=True):
        pq.write_table(encoded(end - rows, end), path)
    return [str(path) for path in paths]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return write(tmp_path, ROWS)


def numbers(batches: Sequence[Batch]) -> list[int]:
    return [int(i) for batch in batches for i in batch.ids_BS[:, 0]]


def planned(blocks: Sequence[Block]) -> list[int]:
    """Numbers of the rows in the order that the blocks ask for."""
    ends = np.cumsum(ROWS)
    order: list[int] = []
    for block in blocks:
        rows = np.concatenate(
            [np.arange(ends[file] - ROWS[file], ends[file]) for file in block.files]
        )
        if block.entropy is not None:
            rows = rows[np.random.default_rng(block.entropy).permutation(len(rows))]
        order.extend(rows[block.skip :].tolist())
    return order


@pytest.mark.parametrize(
    "blocks",
    [
        IN_ORDER,
        [Block((4, 0, 2), 58, None), Block((3,), 42, None)],
        [Block((1, 3, 0), 149, (0, 3, 1)), Block((4, 2), 51, (0, 3, 4))],
        [Block((3, 4), 92, (1, 2, 3), skip=57), Block((2, 0, 1), 108, (1, 2, 2))],
        [Block((2,), 1, (0,)), Block((4,), 50, None, skip=49)],
    ],
    ids=["in order", "some files", "shuffled", "begun", "tiny"],
)
@pytest.mark.parametrize(("batch_rows", "weighted"), [(16, True), (1000, False)])
def test_batches_are_the_planned_rows(
    paths: list[str], blocks: list[Block], batch_rows: int, weighted: bool
) -> None:
    batches = list(stream_batches(blocks, paths, FIELDS, batch_rows=batch_rows, weighted=weighted))
    order = planned(blocks)
    assert numbers(batches) == order
    sizes = [len(batch) for batch in batches]
    assert sizes[:-1] == [batch_rows] * (len(order) // batch_rows - (sizes[-1] == batch_rows))
    whole = encoded(0, sum(ROWS))
    columns = {name: whole[name].to_numpy() for name in ("a", "x")}
    columns["tags"] = np.array(whole["tags"].to_pylist(), np.int32)
    ids, x = assemble(columns, FIELDS)
    np.testing.assert_array_equal(np.concatenate([b.ids_BS for b in batches]), ids[order])
    np.testing.assert_array_equal(np.concatenate([b.x_BS for b in batches]), x[order])
    labels = np.concatenate([b.label_B for b in batches])
    np.testing.assert_array_equal(labels, np.array(order) % 2)
    weights = [b.weight_B for b in batches if b.weight_B is not None]
    assert len(weights) == (len(batches) if weighted else 0)
    if weighted:
        np.testing.assert_array_equal(np.concatenate(weights), np.array(order) / 4)
    for batch in batches:
        assert all(t.is_contiguous() for t in (batch.ids_BS, batch.x_BS, batch.label_B))


def test_each_row_can_tell_its_file(paths: list[str]) -> None:
    blocks = [Block((3, 4), 92, (1, 2, 3), skip=57), Block((2, 0, 1), 108, (1, 2, 2))]
    ends = np.cumsum(ROWS)
    for batch in stream_batches(blocks, paths, FIELDS, batch_rows=16):
        files = [paths[int((ends <= number).sum())] for number in numbers([batch])]
        assert batch.files_of is not None
        assert batch.files_of() == files


def test_groups_are_found_ahead_if_asked_for(paths: list[str]) -> None:
    for group_for in (None, 1, 3):
        batches = stream_batches(IN_ORDER, paths, FIELDS, batch_rows=16, group_for=group_for)
        for batch in batches:
            assert ("groups" in vars(batch)) == (group_for is not None)
            owners = [id_ % (group_for or 1) for id_ in batch.groups.ids_U.tolist()]
            assert owners == sorted(owners)


def test_no_blocks_give_no_batches() -> None:
    assert list(stream_batches([], [], FIELDS, batch_rows=4)) == []


def test_the_order_holds_where_files_come_faster_than_petastorm_schedules_them(
    tmp_path: Path,
) -> None:
    # A plain loop over its reader loses some of them, and two threads hand them over in any order.
    paths = write(tmp_path, [1, 2] * 30)
    for _ in range(5):
        batches = stream_batches([Block(tuple(range(60)), 90, None)], paths, FIELDS, batch_rows=90)
        assert numbers(list(batches)) == list(range(90))


def test_the_next_blocks_are_read_ahead_and_no_further(tmp_path: Path) -> None:
    paths = write(tmp_path, [600] * 5)
    blocks = [Block((index,), 600, (index,)) for index in range(5)]
    batches = stream_batches(blocks, paths, FIELDS, batch_rows=100)
    taken = [next(batches)]
    time.sleep(1.0)  # all the time it needs to read as far ahead as it goes
    for path in paths[1:]:
        Path(path).unlink()
    with pytest.raises(DataError, match=paths[3]):
        taken.extend(batches)
    # The second one was packed, the third one was read.
    assert sorted(numbers(taken)) == list(range(1800))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:600] = b"\xff" * 400
    path.write_bytes(content)


def rewrite(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(change(pq.read_table(path)), path)


def replace(name: str, column: pa.Array) -> Callable[[Path], None]:
    return rewrite(lambda table: table.set_column(table.column_names.index(name), name, column))


N = ROWS[1]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (Path.unlink, "which the manifest lists, is not there"),
        (truncate, "is damaged"),
        (scribble, "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (rewrite(lambda table: table.slice(1)), "99 rows in 1 row groups.* counts 100 in 1"),
        (rewrite(lambda table: pa.concat_tables([table] * 2)), "200 rows in 1 row groups"),
        (
            lambda path: pq.write_table(pq.read_table(path), path, row_group_size=50),
            "100 rows in 2 row groups",
        ),
        (rewrite(lambda table: table.drop(["x"])), "has no column 'x'"),
        (rewrite(lambda table: table.drop(["label"])), "has no column 'label'"),
        (replace("a", pa.array(range(N), pa.int64())), "'a': int32 without nulls .* found int64"),
        (replace("a", pa.array([None] * N, pa.int32())), "found int32 with 100 nulls"),
        (replace("x", pa.array([1.0] * N)), "'x': float .* found double"),
        (replace("a", pa.array([100_000] * N, pa.int32())), "'a': ids from 0 to 99999 .*100000"),
        (replace("a", pa.array([-1] * N, pa.int32())), "'a': ids from 0 to 99999 .* found -1"),
        (
            replace("tags", pa.array([[2, 10]] * N, pa.list_(pa.int32()))),
            "'tags': ids from -1 to 9 .* found 2 to 10",
        ),
        (
            replace("tags", pa.array([[2], [3, 4, 5]] * (N // 2), pa.list_(pa.int32()))),
            "'tags': lists of 2 were expected",
        ),
    ],
)
def test_a_file_that_breaks_the_contract_is_named(
    paths: list[str], harm: Callable[[Path], None], message: str
) -> None:
    harm(Path(paths[1]))
    with pytest.raises(DataError, match=message) as raised:
        list(stream_batches(IN_ORDER, paths, FIELDS, batch_rows=16))
    assert f"{paths[1]}" in str(raised.value)
    assert "build the features again" in str(raised.value)
    stack = "".join(traceback.format_exception(raised.value))
    assert "_packed_blocks" in stack, "the traceback of the thread is lost"


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_early_ends_all_threads(tmp_path: Path, taken: int) -> None:
    paths = write(tmp_path, [500] * 8)
    blocks = [Block((index, index + 1), 1000, (index,)) for index in range(0, 8, 2)]
    before = set(threading.enumerate())
    with contextlib.closing(stream_batches(blocks, paths, FIELDS, batch_rows=100)) as batches:
        for _ in range(taken):
            next(batches)
        began = time.monotonic()
    assert time.monotonic() - began < 5.0
    assert set(threading.enumerate()) == before


def test_an_error_in_the_loop_ends_all_threads(paths: list[str]) -> None:
    before = set(threading.enumerate())

    def loop() -> None:
        for _ in stream_batches(IN_ORDER, paths, FIELDS, batch_rows=16):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert set(threading.enumerate()) == before


def test_a_failure_ends_all_threads(paths: list[str]) -> None:
    Path(paths[3]).unlink()
    before = set(threading.enumerate())
    with pytest.raises(DataError):
        list(stream_batches(IN_ORDER, paths, FIELDS, batch_rows=16))
    assert set(threading.enumerate()) == before
