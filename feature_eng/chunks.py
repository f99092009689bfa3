"""Chunks: the raw rows in columns, each value replaced by a code of the chunk's own dictionary.

One pass over the raw rows ends here, and nothing later reads them again. Whatever is done with
strings afterwards (counting them, finding their ids) is done once per distinct value of a chunk,
not once per row: it costs little, and a value that fills most rows is no heavier than any other.

A chunk is two files, written by Spark's Python workers: its rows (Arrow) and its dictionaries
(Parquet, columns ``DICTIONARY``). Shapes: n = rows of a chunk, L = length of a list.
"""

import functools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numba import njit
from pyspark.sql import DataFrame, SparkSession

from conf import storage
from conf.fields import LABEL, WEIGHT
from conf.manifest import PADDING, FieldSpec
from feature_eng.parquet_texts import NO_TEXTS, Texts, coded, with_texts
from feature_eng.raw import DAY, ORDER, SPLIT
from feature_eng.row_order import mix_in_numbers, mix_in_texts
from feature_eng.split import TRAIN
from feature_eng.tally import Tally
from feature_eng.vocabulary import ENTRY_BYTES
from feature_eng.workers import Batches, in_worker

Array = npt.NDArray[Any]

# Code of a value, and how many training rows hold it, the first and the last on which day.
DICTIONARY = (
    "chunk bigint, field string, value string, code int, count bigint, first_seen date, "
    "last_seen date"
)
_PACKED = "chunk bigint, memory array<bigint>, tally string"
_ROWS, _DICTIONARIES = "rows", "dictionaries"
WORKER_BYTES = 256 << 20  # that a Python worker holds of one thing, as it comes or as it is encoded
_SCHEMA = pa.schema(
    [
        ("chunk", pa.int64()),
        ("field", pa.string()),
        ("value", pa.string()),
        ("code", pa.int32()),
        ("count", pa.int64()),
        ("first_seen", pa.date32()),
        ("last_seen", pa.date32()),
    ]
)


@dataclass(frozen=True)
class Packed:
    """Chunks that were written.

    Attributes:
        directory: Where they are.
        chunks: Their names.
        entry_bytes: Of the entries of all dictionaries in memory, by field.
        tally: What was counted of all rows.
    """

    directory: str
    chunks: Sequence[int]
    entry_bytes: Mapping[str, int]
    tally: Tally

    @property
    def paths(self) -> list[str]:
        """The files of dictionaries, one for each chunk."""
        return [f"{self.directory}/{_DICTIONARIES}/{chunk}.parquet" for chunk in self.chunks]

    def dictionaries(self, spark: SparkSession) -> DataFrame:
        """The dictionaries of all chunks: ``DICTIONARY``."""
        return spark.read.schema(DICTIONARY).parquet(*self.paths)


def pack(
    rows: DataFrame,
    fields: Sequence[FieldSpec],
    directory: str,
    texts: Texts = NO_TEXTS,
) -> Packed:
    """Write canonical rows as chunks: the one pass over the raw rows.

    Args:
        rows: Canonical rows (see ``feature_eng.raw``).
        fields: All fields, unfitted or fitted.
        directory: Receives the chunks; also those of tasks that were tried again, which are none.
        texts: Those that the rows' places stand for.
    """
    # Here and not by the tasks: what one that was cancelled still wants to write has no place then.
    for kind in (_ROWS, _DICTIONARIES):
        storage.make_directory(f"{directory}/{kind}")
    worker = functools.partial(_pack_partition, fields=fields, directory=directory, texts=texts)
    packed = rows.mapInArrow(in_worker(worker), _PACKED).collect()
    names = [field.name for field in fields if field.has_vocabulary]
    return Packed(
        directory,
        chunks=[row["chunk"] for row in packed],
        entry_bytes={name: sum(row["memory"][n] for row in packed) for n, name in enumerate(names)},
        tally=Tally.total(Tally.from_json(row["tally"]) for row in packed),
    )


def _pack_partition(
    batches: Batches, fields: Sequence[FieldSpec], directory: str, texts: Texts
) -> Batches:
    tables = (
        with_texts(batches, texts)
        if texts.columns
        else (pa.Table.from_batches([batch]) for batch in batches)
    )
    for rows in _chunks(tables, sum(field.length for field in fields)):
        chunk, memory = uuid.uuid4().int >> 65, []
        valued = {field.name for field in fields if field.has_vocabulary}
        others = [name for name in rows.column_names if name not in {*valued, DAY}]
        columns = {name: rows[name].combine_chunks() for name in others}
        order = rows[ORDER].to_numpy().view(np.uint64).copy()
        trains = rows[SPLIT].to_numpy() == TRAIN
        days = _days(rows)
        with (
            create(f"{directory}/{_DICTIONARIES}/{chunk}.parquet") as file,
            pq.ParquetWriter(file, _SCHEMA, compression="zstd") as dictionaries,
        ):
            for field in fields:
                if field.has_vocabulary:
                    codes_nL, values = _coded(rows[field.name], field)
                    codes = codes_nL.ravel().astype(np.min_scalar_type(-max(1, len(values))))
                    columns[field.name] = pa.FixedSizeListArray.from_arrays(codes, field.length)
                    mix_in_texts(order, codes_nL, values)
                    found = _count(codes_nL, len(values), trains, days)
                    dictionaries.write_table(_entries(chunk, field.name, values, found))
                    memory.append(values.nbytes + ENTRY_BYTES * len(values))
        for name in _numbers(columns, fields):
            mix_in_numbers(order, rows[name].to_numpy().astype(np.float64))
        columns[ORDER] = pa.array(order.view(np.int64))
        _write_rows(f"{directory}/{_ROWS}/{chunk}.arrow", pa.table(columns))
        yield pa.record_batch(
            [
                pa.array([chunk]),
                pa.array([memory], pa.list_(pa.int64())),
                pa.array([Tally.of(rows, fields).to_json()]),
            ],
            ["chunk", "memory", "tally"],
        )


def _days(rows: pa.Table) -> Array:
    """The day of each row since 1970, NaN for none: float64 [n]."""
    if DAY not in rows.column_names:
        return np.full(len(rows), np.nan)
    days: Array = rows[DAY].cast(pa.int32()).cast(pa.float64()).to_numpy()
    return days


def _numbers(columns: Mapping[str, Any], fields: Sequence[FieldSpec]) -> list[str]:
    """The columns that hold a number per row."""
    losses = [name for name in (LABEL, WEIGHT) if name in columns]
    return losses + [field.name for field in fields if not field.has_vocabulary]


def read_rows(directory: str, chunk: int) -> pa.Table:
    """The rows of a chunk; a field with a vocabulary holds lists of codes, padded with -1."""
    fs, plain = storage.filesystem(f"{directory}/{_ROWS}/{chunk}.arrow")
    with fs.open(plain, "rb") as file:
        return pa.ipc.open_file(file).read_all()


def codes_of(rows: pa.Table, field: FieldSpec) -> Array:
    """A field's codes: integers [n, L], L = 1 where it has one value."""
    column = rows[field.name].combine_chunks()
    codes: Array = column.flatten().to_numpy()
    return codes.reshape(len(rows), -1)


def _chunks(tables: Iterable[pa.Table], slots: int) -> Iterator[pa.Table]:
    """Tables joined, until they or what they will be encoded as fill a chunk."""
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        held.append(table)
        size += max(table.nbytes, 4 * slots * len(table))
        if size >= WORKER_BYTES:
            yield pa.concat_tables(held)
            held, size = [], 0
    if any(len(table) for table in held):
        yield pa.concat_tables(held)


def _coded(column: pa.ChunkedArray, field: FieldSpec) -> tuple[Array, pa.Array]:
    """Codes [n, L], and the value of each code; one from a file's dictionary may be in no row."""
    if field.kind == "categorical":
        parts = coded(column).chunks  # of one dictionary
        codes = pa.chunked_array([part.indices for part in parts]).fill_null(PADDING)
        return codes.to_numpy().reshape(-1, 1), parts[0].dictionary
    values = column.combine_chunks()
    row, place = places(values)
    kept = place < field.length
    encoded = pc.list_flatten(values).filter(pa.array(kept)).dictionary_encode()
    codes_nL = np.full((len(values), field.length), PADDING, np.int32)
    codes_nL[row[kept], place[kept]] = encoded.indices.to_numpy()
    return codes_nL, encoded.dictionary


def places(lists: pa.ListArray) -> tuple[Array, Array]:
    """Of each item of all lists its row, and its place in its list."""
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    ends = np.cumsum(lengths)
    row = np.repeat(np.arange(len(lists)), lengths)
    return row, np.arange(len(row)) - np.repeat(ends - lengths, lengths)


@njit(nogil=True, cache=True)
def _count(codes_nL: Array, size: int, trains: Array, days: Array) -> tuple[Array, ...]:
    """Per code the training rows that hold it, and the first and last day of these."""
    count, held_last = np.zeros(size, np.int64), np.full(size, -1)
    first, last = np.full(size, np.inf), np.full(size, -np.inf)
    for row in range(len(codes_nL)):
        for code in codes_nL[row]:
            # A row counts once for a value that it holds twice.
            if trains[row] and code != PADDING and held_last[code] != row:
                held_last[code] = row
                count[code] += 1
                if days[row] < first[code]:  # not where there is none: NaN
                    first[code] = days[row]
                if days[row] > last[code]:
                    last[code] = days[row]
    return count, first, last


def _entries(chunk: int, field: str, values: pa.Array, found: tuple[Array, ...]) -> pa.Table:
    size = len(values)
    count, *days = found
    return pa.table(
        [
            pa.array(np.full(size, chunk)),
            pa.repeat(pa.scalar(field, pa.string()), size),
            values,
            pa.array(np.arange(size, dtype=np.int32)),
            pa.array(count),
            *(_dates(day) for day in days),
        ],
        schema=_SCHEMA,
    )


def _dates(days: Array) -> pa.Array:
    known = np.isfinite(days)
    whole = np.where(known, days, 0).astype(np.int32)
    return pa.array(whole, mask=~known).cast(pa.date32())


def _write_rows(path: str, rows: pa.Table) -> None:
    with create(path) as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)


def create(path: str) -> Any:
    """Open a new file."""
    fs, plain = storage.filesystem(path)
    return fs.open(plain, "wb")
