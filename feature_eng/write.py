"""The encoded splits on disk, dealt and shuffled by a hash, and what is in each file."""

import functools
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from pyspark.sql import DataFrame

from conf import storage
from conf.errors import RunError
from conf.manifest import FieldSpec, FileSpec
from conf.schema import SPLITS
from feature_eng.chunks import WORKER_BYTES, Packed, create
from feature_eng.encode import encoded_chunks
from feature_eng.histogram import histogram
from feature_eng.raw import ORDER, SPLIT
from feature_eng.workers import Batches, in_worker

Array = npt.NDArray[Any]

# A dealt chunk begins with these: how many files there are, and where in it the rows of each begin,
# and where the last end. The rows follow.
_WORD = np.dtype(np.int64)
_DEALT = "name string"
_WRITTEN = "split int, path string, rows bigint, cells array<array<bigint>>"


@dataclass(frozen=True)
class WrittenSplit:
    """A split as it was written.

    Attributes:
        files: Its files, by name.
        cells: Per field, its ids by cell (see ``feature_eng.histogram``); numbers have none.
        cells_then: The same, where only the ids that the base has count as known.
    """

    files: list[FileSpec]
    cells: list[Array]
    cells_then: list[Array]


@dataclass(frozen=True)
class SplitWriter:
    """Deals encoded rows to files and writes these; runs in Spark's Python workers.

    A row belongs to the file that its order, a hash, says, and lies in it by that order: the same
    rows give the same files wherever they came from.

    Attributes:
        directory: Where the splits go.
        packed: The chunks.
        indexed: The files of ``feature_eng.indexing.index_fields``.
        fields: How each field was fitted.
        loss_columns: The label, and the weight if there is one.
        num_files: Files of each split, at most.
        known_then: Per field, the ids that the base has, or all of them.
    """

    directory: str
    packed: Packed
    indexed: Mapping[str, str]
    fields: Sequence[FieldSpec]
    loss_columns: Sequence[str]
    num_files: int
    known_then: Sequence[int]

    @property
    def dealt(self) -> str:
        """Where encoded rows wait for the task that writes them."""
        return f"{self.packed.directory}/dealt"

    def tasks(self, at_once: int) -> int:
        """How many tasks write: as many as run at once, or more, so that each can hold its rows."""
        size = self.packed.tally.counts["rows"] * self._row.itemsize
        return min(self.num_files, max(at_once, math.ceil(size / WORKER_BYTES)))

    def deal(self, batches: Batches) -> Batches:
        """Encode the chunks that a partition of ``local_ids`` names, each into rows by file."""
        for rows, columns in encoded_chunks(batches, self.fields, self.packed, self.indexed):
            encoded = np.zeros(len(rows), self._row)
            for name, column in columns.items():
                encoded[name] = column
            for name in (ORDER, SPLIT, *self.loss_columns):
                encoded[name] = rows[name].to_numpy()
            number = (encoded[ORDER].view(np.uint64) % np.uint64(self.num_files)).astype(np.int64)
            begins = np.cumsum([0, *np.bincount(number, minlength=self.num_files)])
            places = (1 + len(begins)) * _WORD.itemsize + begins * encoded.itemsize
            words = encoded.view(np.int64).reshape(len(rows), -1)
            name = uuid.uuid4().hex  # a task that is tried again writes under another
            with create(f"{self.dealt}/{name}") as file:
                file.write(np.array([self.num_files, *places], _WORD).tobytes())
                file.write(_grouped(words, number, begins).data)
            yield pa.record_batch([[name]], ["name"])

    def write(self, batches: Batches, dealt: Sequence[str]) -> Batches:
        """Write the files whose numbers a partition has, consecutive ones, of what was dealt."""
        numbers = [number for batch in batches for number in batch.column(0).to_pylist()]
        for number, rows in self._rows_of(numbers, dealt):
            by_order = np.argsort(rows[ORDER])  # rows of one order are alike
            splits = rows[SPLIT][by_order]
            for split in np.flatnonzero(np.bincount(splits)).tolist():
                of_split = np.take(rows, by_order[splits == split])
                yield self._write_file(of_split, split, number)

    def _rows_of(self, numbers: Sequence[int], dealt: Sequence[str]) -> Iterator[tuple[int, Array]]:
        """Consecutive files' rows, which lie side by side in each chunk that was dealt."""
        fs, plain = storage.filesystem(self.dealt)
        paths, word, row = [f"{plain}/{name}" for name in dealt], _WORD.itemsize, self._row.itemsize
        cat = functools.partial(fs.cat_ranges, on_error="raise")
        # Not from 0 on: fsspec's Hadoop file system would open a stream, and fail to seek in it.
        headers = cat(paths, (1 + numbers[0]) * word, (3 + numbers[-1]) * word)
        places = dict(zip(paths, [np.frombuffer(found, _WORD) for found in headers], strict=True))
        places = {path: at for path, at in places.items() if at[0] < at[-1]}
        begins, ends = ([int(at[n]) for at in places.values()] for n in (0, -1))
        parts = [
            np.split(np.frombuffer(found, self._row), (at[1:-1] - at[0]) // row)
            for found, at in zip(cat(list(places), begins, ends), places.values(), strict=True)
        ]
        for number, of_file in zip(numbers, zip(*parts, strict=True), strict=False):  # no parts
            yield number, np.concatenate(of_file)

    @functools.cached_property
    def _row(self) -> np.dtype[Any]:
        """A row as it is dealt: order, split, and each column in the least bytes that hold it."""
        columns: list[tuple[str, np.dtype[Any]]] = [(ORDER, np.dtype(np.int64))]
        columns += [(SPLIT, np.dtype(np.int8))]
        columns += [(name, np.dtype(np.float32)) for name in self.loss_columns]
        columns += [(field.name, _least_type(field)) for field in self.fields]
        # The widest first leaves the fewest holes.
        columns.sort(key=lambda column: -column[1].base.itemsize)
        return np.dtype(columns, align=True)

    def _write_file(self, packed: Array, split: int, file: int) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {}
        cells: list[list[int]] = []
        for field, known_then in zip(self.fields, self.known_then, strict=True):
            kind = np.float32 if field.kind == "numeric" else np.int32
            values = packed[field.name].astype(kind)
            columns[field.name] = _column(values, field)
            cells += _cells(values, field, known_then)
        for name in self.loss_columns:
            columns[name] = pa.array(np.ascontiguousarray(packed[name]))
        # A task that is tried again writes under another name; the first try's file is removed.
        path = f"{SPLITS[split]}/part-{file:05}-{uuid.uuid4().hex[:8]}.parquet"
        rows = _write_parquet(pa.table(columns), f"{self.directory}/{path}")
        return pa.record_batch(
            [
                pa.array([split], pa.int32()),
                pa.array([path]),
                pa.array([rows]),
                pa.array([cells], pa.list_(pa.list_(pa.int64()))),
            ],
            ["split", "path", "rows", "cells"],
        )


def write_splits(ids: DataFrame, writer: SplitWriter) -> dict[str, WrittenSplit]:
    """Encode and write ``<directory>/{train,valid,test}``: one row group a file.

    Args:
        ids: ``feature_eng.encode.local_ids`` of the chunks.
        writer: Who writes, and what.
    """
    # Not by the tasks (see feature_eng.chunks.pack).
    for directory in (writer.dealt, *(f"{writer.directory}/{split}" for split in SPLITS)):
        storage.make_directory(directory)
    dealt = [row["name"] for row in ids.mapInArrow(in_worker(writer.deal), _DEALT).collect()]
    spark = ids.sparkSession
    tasks = writer.tasks(spark.sparkContext.defaultParallelism)
    numbers = spark.range(0, writer.num_files, 1, tasks)
    write = functools.partial(writer.write, dealt=dealt)
    written = numbers.mapInArrow(in_worker(write), _WRITTEN).collect()
    splits = {}
    for code, split in enumerate(SPLITS):
        mine = sorted((row for row in written if row["split"] == code), key=lambda row: row["path"])
        names = {row["path"].rpartition("/")[2] for row in mine}
        storage.remove_others(f"{writer.directory}/{split}", names)
        cells = [_sum(counts) for counts in zip(*(row["cells"] for row in mine), strict=True)]
        files = [FileSpec(path=row["path"], rows=row["rows"]) for row in mine]
        splits[split] = WrittenSplit(files, cells[::2], cells[1::2])
    return splits


@njit(nogil=True, cache=True)
def _grouped(packed: Array, key: Array, begins: Array) -> Array:
    """Rows in the order of their keys, those of a key in theirs; moves ``begins`` to the ends."""
    grouped = np.empty_like(packed)
    for row in range(len(packed)):
        grouped[begins[key[row]]] = packed[row]
        begins[key[row]] += 1
    return grouped


def _cells(values: Array, field: FieldSpec, known_then: int) -> list[list[int]]:
    """A field's histograms, by the ids known now and then; those of a number are empty."""
    if field.kind == "numeric":
        return [[], []]
    now = histogram(values, field, field.cardinality).tolist()
    grew = known_then != field.cardinality
    return [now, histogram(values, field, known_then).tolist() if grew else now]


def _least_type(field: FieldSpec) -> np.dtype[Any]:
    """Of a field's values in a row: of integers the smallest that holds its ids."""
    if field.kind == "multi_valued":  # also padding, which is negative
        return np.dtype((np.min_scalar_type(-field.cardinality), (field.length,)))
    return (
        np.dtype(np.float32)
        if field.kind == "numeric"
        else np.min_scalar_type(field.cardinality - 1)
    )


def _column(values: Array, field: FieldSpec) -> pa.Array:
    if field.kind == "multi_valued":
        offsets = np.arange(0, values.size + 1, field.length, dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, values.ravel())
    return pa.array(values)


def _write_parquet(table: pa.Table, path: str) -> int:
    """Write one row group; returns the rows that the footer says are there."""
    fs, plain = storage.filesystem(path)
    with fs.open(plain, "wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=len(table))
    with fs.open(plain, "rb") as file:
        footer = pq.read_metadata(file)
    if (footer.num_rows, footer.num_row_groups) != (len(table), 1):
        raise RunError(
            f"'{path}' came out with {footer.num_rows} rows in {footer.num_row_groups} row groups, "
            f"{len(table)} in one were written; the store damaged it"
        )
    return int(footer.num_rows)


def _sum(counts: Sequence[Sequence[int]]) -> Array:
    """Add up lists, the shorter ones filled with zeros."""
    total = np.zeros(max(map(len, counts)), np.int64)
    for count in counts:
        total[: len(count)] += np.array(count, np.int64)
    return total
