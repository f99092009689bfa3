"""Scores as Spark's Python workers write them: a file per task, and what was found on the way."""

import itertools
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conf import storage
from conf.cells import Cells, add_cells, as_pairs, count_cells, from_pairs
from conf.errors import RunError
from conf.manifest import MISSING, FieldSpec
from conf.partition import ScoreFile
from conf.scoring import EXPLANATION, SCORE
from feature_eng.raw import KEY_HASH
from feature_eng.top_rows import RANK, DueRows, best_rows
from feature_eng.workers import Batches

Array = npt.NDArray[Any]
# Encoded columns of some rows (see ``feature_eng.encode``) to the model's ``output``, its
# ``model_score`` and the published ``score``, [n], and ``explanation``, if it was asked for.
Scorer = Callable[[dict[str, Array]], Mapping[str, Any]]

# What a task yields of the file that it wrote.
WRITTEN = "path string, rows bigint, bytes bigint, due bigint, found string"
OUTPUT, MODEL_SCORE = "output", "model_score"
_ROW_GROUP_ROWS = 1 << 18
_DICTIONARY_BYTES = 1 << 16  # of a column of a row group; keys of many values are not worth theirs
_FREQUENT = 100
_PARTS = 64  # that are held until they are added up


class Block(NamedTuple):
    """Encoded rows.

    Attributes:
        columns: Per field, as ``feature_eng.encode`` has them.
        kept: Columns of the scores that the rows have.
        key_hashes: Of the keys of each row, int64 [n].
        nulls: Per numeric field, whose encoded zero does not tell, whether a row has no value.
    """

    columns: dict[str, Array]
    kept: Mapping[str, pa.Array]
    key_hashes: Array
    nulls: Mapping[str, npt.NDArray[np.bool_]]


# Rows of a batch to blocks of encoded ones.
BlockEncoder = Callable[[pa.Table], Iterator[Block]]


@dataclass(frozen=True)
class Found:
    """What some scored rows were like.

    Attributes:
        rows: That were scored.
        missing: Per field, the rows without a value.
        nulls: Per kept column, the same.
        unknown: Per field with a vocabulary, the values that are not known.
        values: Per field with a vocabulary, all values.
        cells: The scores, before calibration, by cell (``conf.cells``).
        frequent: The most frequent scores, as they are published, with their rows. What a file
            holds in no more than 1% of its rows may be left out.
        no_number: Rows for which the model put out infinity or no number, which its score may
            hide; they are in neither of these.
    """

    rows: int
    missing: dict[str, int]
    nulls: dict[str, int]
    unknown: dict[str, int]
    values: dict[str, int]
    cells: Cells
    frequent: dict[float, int]
    no_number: int

    @classmethod
    def added_up(cls, parts: Sequence["Found"]) -> "Found":
        """Of all the rows of the parts, which may be none."""
        return cls(
            rows=sum(part.rows for part in parts),
            missing=_added(part.missing for part in parts),
            nulls=_added(part.nulls for part in parts),
            unknown=_added(part.unknown for part in parts),
            values=_added(part.values for part in parts),
            cells=add_cells(part.cells for part in parts),
            frequent=dict(Counter(_added(part.frequent for part in parts)).most_common(_FREQUENT)),
            no_number=sum(part.no_number for part in parts),
        )

    @classmethod
    def of(cls, block: Block, fields: Sequence[FieldSpec], scores: Mapping[str, Any]) -> "Found":
        """Of encoded rows and their scores.

        Args:
            block: The rows.
            fields: How they were encoded.
            scores: See ``Scorer``.
        """
        missing = {name: int(np.count_nonzero(null)) for name, null in block.nulls.items()}
        nulls = {name: values.null_count for name, values in block.kept.items()}
        unknown, values = dict[str, int](), dict[str, int]()
        for field in fields:
            ids = block.columns[field.name]
            if field.kind == "numeric":
                continue
            first = ids[:, 0] if ids.ndim == 2 else ids
            missing[field.name] = int(np.count_nonzero(first == MISSING))
            if field.has_vocabulary:
                present = np.count_nonzero(ids > MISSING)  # padding is below it
                known = np.count_nonzero(ids >= field.first_known)
                values[field.name], unknown[field.name] = int(present), int(present - known)
        finite = np.isfinite(scores[OUTPUT])
        cells = count_cells(scores[MODEL_SCORE][finite])
        distinct, counts = np.unique(scores[SCORE][finite], return_counts=True)
        often = min(len(finite) // _FREQUENT + 1, counts.max(initial=1))
        top = np.flatnonzero(counts >= often)[:_FREQUENT]
        frequent = dict(zip(distinct[top].tolist(), counts[top].tolist(), strict=True))
        none = int(np.count_nonzero(~finite))
        return cls(len(finite), missing, nulls, unknown, values, cells, frequent, none)

    def to_json(self) -> str:
        """As text, for the driver."""
        return json.dumps(
            (
                *(self.rows, self.missing, self.nulls, self.unknown, self.values),
                *(as_pairs(self.cells), list(self.frequent.items()), self.no_number),
            )
        )

    @classmethod
    def from_json(cls, text: str) -> "Found":
        """The way back."""
        rows, missing, nulls, unknown, values, cells, frequent, no_number = json.loads(text)
        of_values = dict(map(tuple, frequent))
        return cls(rows, missing, nulls, unknown, values, from_pairs(cells), of_values, no_number)


@dataclass(frozen=True)
class ScoreWriter:
    """Encodes, scores and writes the rows of a task; runs in Spark's Python workers.

    Attributes:
        encode: Rows to blocks of encoded ones.
        fields: How they are encoded.
        load_scorer: Loads the model, or finds that of an earlier task.
        schema: Of the files: the kept columns, ``score``, constants, ``explanation``.
        constants: Columns that are the same in every row, by name.
        directory: Where the files go.
        prefix: How their names begin; a random part follows, so that the file of a task that is
            tried again is another one.
        top_k: Rows to keep for each value of ``by``, all of whose rows come to one task.
        by: A kept column.
    """

    encode: BlockEncoder
    fields: Sequence[FieldSpec]
    load_scorer: Callable[[], Scorer]
    schema: pa.Schema
    constants: Mapping[str, Any]
    directory: str
    prefix: str
    top_k: int | None = None
    by: str | None = None

    def write(self, batches: Batches) -> Batches:
        """Score the rows of a task; yields a ``WRITTEN`` for them, if there are any."""
        parts: list[Found] = []

        def scored() -> Iterator[pa.Table]:
            scorer = self.load_scorer()
            for batch in batches:
                if len(batch) == 0:
                    continue
                for block in self.encode(pa.Table.from_batches([batch])):
                    scores = scorer(block.columns)
                    parts.append(Found.of(block, self.fields, scores))
                    if len(parts) == _PARTS:
                        parts[:] = [Found.added_up(parts)]
                    yield self._table(block, scores)

        tables, counted = scored(), None
        if self.top_k is not None and self.by is not None:
            counted = DueRows(self.top_k, self.by)
            tables = best_rows(counted.of(tables), self.top_k, self.by)
        path = f"{self.prefix}-{uuid.uuid4().hex[:8]}.parquet"
        if file := write_file(tables, self.schema, self.constants, self.directory, path):
            found = Found.added_up(parts)
            due = counted.total() if counted else found.rows
            values = [[file.path], [file.rows], [file.bytes], [due], [found.to_json()]]
            yield pa.record_batch(values, ["path", "rows", "bytes", "due", "found"])

    def _table(self, block: Block, scores: Mapping[str, Any]) -> pa.Table:
        data = {**block.kept, SCORE: pa.array(scores[SCORE])}
        if EXPLANATION in self.schema.names:
            data[EXPLANATION] = scores[EXPLANATION]
        names = [name for name in self.schema.names if name not in self.constants]
        table = pa.table([data[name] for name in names], names)
        table = table.append_column(KEY_HASH, pa.array(block.key_hashes))
        return table if self.top_k is None else table.append_column(RANK, pa.array(scores[OUTPUT]))


def write_file(
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    constants: Mapping[str, Any],
    directory: str,
    path: str,
) -> ScoreFile | None:
    """Write tables as one Parquet file, and their keys' hashes beside it; none if there are none.

    Args:
        tables: All columns of the schema but the constants, and ``KEY_HASH``.
        schema: As the file is read.
        constants: Columns that are the same in every row, by name.
        directory: Where the file goes.
        path: Its name.

    Raises:
        RunError: Not all rows are in it.
    """
    first = next(tables, None)
    if first is None:
        return None
    fs, directory = storage.filesystem(directory)
    plain = f"{directory}/{path}"
    texts = [field.name for field in schema if field.name != SCORE and not _is_nested(field.type)]
    # Handed over as one value and its codes: the writer would compare the texts of all rows.
    coded = {name: pa.array([value], schema.field(name).type) for name, value in constants.items()}
    written = pa.schema(
        field.with_type(pa.dictionary(pa.int32(), field.type)) if field.name in coded else field
        for field in schema
    )
    rows = 0
    with (
        fs.open(plain, "wb") as file,
        fs.open(f"{directory}/{key_file(path)}", "wb") as hashes,
        pq.ParquetWriter(
            file,
            written,
            compression="zstd",
            use_dictionary=texts,
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
            store_schema=False,  # readers are to find plain columns
        ) as writer,
    ):
        for group in _row_groups(itertools.chain([first], tables)):
            codes = pa.array(np.zeros(len(group), np.int32))
            columns = [
                pa.DictionaryArray.from_arrays(codes, coded[field.name])
                if field.name in coded
                else group[field.name]
                for field in schema
            ]
            writer.write_table(pa.table(columns, schema=written))
            hashes.write(group[KEY_HASH].to_numpy().tobytes())
            rows += len(group)
    with fs.open(plain, "rb") as file:
        found = pq.read_metadata(file).num_rows
    if found != rows:
        raise RunError(f"'{path}' has {found} rows, {rows} were written: the store damaged it")
    return ScoreFile(path=path, rows=rows, bytes=fs.size(plain))


def key_file(path: str) -> str:
    """The name of the file with the hashes of a file's keys, int64 by row; readers skip it."""
    return f"_{path}.keys"


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= _ROW_GROUP_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def _added(parts: Iterable[Mapping[Any, int]]) -> dict[Any, int]:
    total: Counter[Any] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)
