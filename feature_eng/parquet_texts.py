"""Text columns of Parquet files, which Spark's Python workers read by themselves.

Spark hands a worker one text after the other, which was half of a build's time; a Parquet file has
the texts of a row group's column once, with a code for each row, as the chunks want them. So Spark
reads all else, decides which rows there are, and says where in which file each of them lies; the
worker that gets a row fetches its texts from there.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf import storage
from conf.errors import DataError, RunError
from conf.manifest import FieldSpec
from conf.schema import Config
from feature_eng.raw import BEGINNING_CHARACTERS, LONGEST_BYTES
from feature_eng.workers import Batches
from feature_eng.xxhash64 import FIRST_SEED, hash_texts

Array = npt.NDArray[Any]

_FILE, _BYTES, _ROW = _PLACE = ["_file", "_bytes", "_row"]
_IS_TEXT = (
    *(pa.types.is_string, pa.types.is_large_string),
    *(pa.types.is_binary, pa.types.is_large_binary),  # as writers leave it that mark nothing
)
_PIECE_ROWS, _PIECE_BYTES = 1 << 20, 64 << 20  # of a row group, that are read at once
_CODE_BYTES = 4  # of a text of a row


class Texts(NamedTuple):
    """Texts that workers read by themselves.

    Attributes:
        columns: The columns of the raw table that hold them, by field.
        files: The files of the raw table by a hash of their paths. It stands for the path in each
            row, which as a text would be most of what is handed over.
    """

    columns: Mapping[str, str]
    files: Mapping[int, str]


NO_TEXTS = Texts({}, {})


def find_texts(raw: DataFrame, config: Config, fields: Sequence[FieldSpec]) -> Texts:
    """What workers can read by themselves: texts of Parquet files as such.

    A drawn row lies in no file, and a partition's value is the name of a directory. What a
    catalog's table holds may be more than its files say.
    """
    if config.raw.path is None or config.raw.format != "parquet" or config.negatives:
        return NO_TEXTS
    # As one text: of an array, py4j would ask for each path by itself. An end of line is escaped.
    jvm: Any = raw.sparkSession._jvm
    paths = jvm.org.apache.hadoop.util.StringUtils.join("\n", raw._jdf.inputFiles()).split("\n")
    # All files have the same partitions. A directory's name is escaped, and then its URI.
    parts = [part.partition("=") for path in paths[:1] for part in unquote(path).split("/")]
    partitions = {unquote(name).lower() for name, equals, _ in parts if equals}
    columns = {
        field.name: field.source
        for field in fields
        if field.kind == "categorical"
        and not field.is_expr
        and field.source in raw.columns
        and raw.schema[field.source].dataType == T.StringType()
        and field.source.lower() not in partitions
    }
    return Texts(columns, _by_hash(paths)) if columns else NO_TEXTS


def _by_hash(paths: Sequence[str]) -> dict[int, str]:
    # Where a store has no host, Spark writes a file's path as file:///a here and as file:/a there.
    spelled = [*paths, *(path.replace(":///", ":/", 1) for path in paths)]
    hashes = hash_texts(FIRST_SEED, pa.array(spelled, pa.string())).view(np.int64)
    return dict(zip(hashes.tolist(), [*paths, *paths], strict=True))


def place_columns(raw: DataFrame) -> list[Column]:
    """Where each row of Parquet files lies."""
    place = raw.metadataColumn("_metadata")
    said = F.xxhash64(place["file_path"]), place["file_size"], place["row_index"]
    return [column.alias(name) for column, name in zip(said, _PLACE, strict=True)]


def with_texts(batches: Batches, texts: Texts) -> Iterator[pa.Table]:
    """Give rows the texts of their fields, in place of ``place_columns``.

    Args:
        batches: Rows, those of a file in its order.
        texts: What ``find_texts`` found.

    Yields:
        The rows of a row group, or of a piece of a large one, their texts coded by a dictionary. A
        long text is named as ``feature_eng.raw`` names it.

    Raises:
        DataError: A file cannot be read, was replaced meanwhile, or has no texts where it should.
        RunError: Spark names files in a way that is not known here.
    """
    columns = set(texts.columns.values())
    for (name, size), of_file in itertools.groupby(_of_files(batches), lambda at: at[:2]):
        if name not in texts.files:
            listed = next(iter(texts.files.values()), None)
            raise RunError(
                f"a row of the raw table is in none of the files that Spark lists for it, such as "
                f"'{listed}': give the table as raw.table, then Spark alone reads its files"
            )
        file = _File(texts.files[name], size, columns)
        for piece, cut in itertools.groupby(_of_pieces(of_file, file.begins), lambda at: at[0]):
            rows = pa.Table.from_batches([rows for _, rows in cut])
            places = pa.array(rows[_ROW].to_numpy() - file.begins[piece])
            read = file.texts(piece)
            for field, column in texts.columns.items():
                rows = rows.append_column(field, _taken(read[column], places))
            yield rows.drop_columns([_ROW])


class _File:
    """A Parquet file, read row group by row group, large ones in pieces.

    Attributes:
        begins: The place of each piece's first row, and of the row after the last.
    """

    def __init__(self, path: str, size: int, columns: Collection[str]) -> None:
        self._path, self._columns = unquote(path), columns
        with self._named():
            fs, place = storage.filesystem(self._path)
            # Whole columns are asked for: of what lies between, a store is to send nothing.
            file = fs.open(place, "rb", cache_type="none")
            if (found := file.seek(0, 2)) != size:
                raise DataError(
                    f"'{self._path}' had {size} bytes and has {found} now: it was replaced while "
                    f"it was read; build again when the raw table is complete"
                )
            footer = pq.read_metadata(file)
            self._names = self._find(footer.schema.to_arrow_schema())
            chunks = [self._chunks(footer.row_group(n)) for n in range(footer.num_row_groups)]
            # Arrow has no dictionary of what is coded by differences.
            delta = {c.path_in_schema for of in chunks for c in of if "DELTA" in str(c.encodings)}
            coded = [name for name in self._names.values() if name not in delta]
            self._parquet = pq.ParquetFile(file, metadata=footer, read_dictionary=coded)
        self._pieces: list[tuple[int, int, int]] = []  # row group, its first piece, rows of each
        sizes = []
        for group, of_group in enumerate(chunks):
            rows = footer.row_group(group).num_rows
            plain = sum(chunk.total_uncompressed_size for chunk in of_group)
            held = max(_PIECE_BYTES, plain, _CODE_BYTES * rows * len(of_group))
            most = min(_PIECE_ROWS, max(1, rows * _PIECE_BYTES // held))
            begins = range(0, rows, most)
            self._pieces += [(group, len(self._pieces), most)] * len(begins)
            sizes += [min(most, rows - begin) for begin in begins]
        self.begins = np.cumsum([0, *sizes])
        self._reader: Iterator[pa.RecordBatch] = iter(())
        self._next = 0

    def texts(self, piece: int) -> dict[str, pa.DictionaryArray]:
        """The columns of a piece; one that the file does not have is null, as in Spark."""
        group, first, rows = self._pieces[piece]
        names = sorted(self._names.values())
        with self._named():
            if piece == first or piece != self._next:
                self._reader = self._parquet.iter_batches(rows, [group], names, use_threads=False)
                self._next = first
            for _ in range(self._next, piece + 1):
                read = next(self._reader)
            self._next = piece + 1
            found = {column: self._coded(read[name]) for column, name in self._names.items()}
        size = self.begins[piece + 1] - self.begins[piece]
        absent = pa.nulls(size, pa.string()).dictionary_encode()
        return {column: found.get(column, absent) for column in self._columns}

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Name the file in what goes wrong with it."""
        try:
            yield
        except MemoryError:
            raise
        except (OSError, pa.ArrowException) as error:
            said = str(error).partition("\n")[0]
            reason = f"{type(error).__name__}: {said}"
            raise DataError(f"'{self._path}' cannot be read by Python workers: {reason}") from None

    def _find(self, schema: pa.Schema) -> dict[str, str]:
        """The columns that are there, by the names in the table; the case does not count."""
        names = {}
        for column in self._columns:
            there = [field for field in schema if field.name.lower() == column.lower()]
            if len(there) > 1:
                raise DataError(f"'{self._path}' has {len(there)} columns '{column}'")
            for field in there:
                coded = pa.types.is_dictionary(field.type)
                kind = field.type.value_type if coded else field.type
                if not any(is_text(kind) for is_text in _IS_TEXT):
                    raise DataError(
                        f"'{self._path}': column '{column}' is {kind}, but a string in other files "
                        f"of the raw table; write them all with one type"
                    )
                names[column] = field.name
        return names

    def _chunks(self, group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
        names = set(self._names.values())
        chunks = map(group.column, range(group.num_columns))
        return [chunk for chunk in chunks if chunk.path_in_schema in names]

    def _coded(self, column: pa.Array) -> pa.DictionaryArray:
        texts = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        words = texts.dictionary.cast(pa.binary()).view(pa.string())  # whatever it is marked as
        if len(texts) > texts.null_count and pc.max(texts.indices).as_py() >= len(words):
            raise DataError(f"'{self._path}' is damaged: it has codes without a text")
        return pa.DictionaryArray.from_arrays(texts.indices, _shortened(words))


def _taken(texts: pa.DictionaryArray, places: pa.Array) -> pa.DictionaryArray:
    """The texts at ascending places, in a dictionary of not many others."""
    if len(places) == len(texts):
        return texts
    taken = texts.take(places)
    if len(taken) >= len(taken.dictionary):
        return taken
    return taken.dictionary_decode().dictionary_encode()


def coded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column coded by one dictionary, whether it was by several or by none."""
    is_coded = pa.types.is_dictionary(column.type)
    return column.unify_dictionaries() if is_coded else column.dictionary_encode()


def _shortened(texts: pa.Array) -> pa.Array:
    """Texts, the long ones by their names, as ``feature_eng.raw.field_column`` has them."""
    long = pc.greater(pc.binary_length(texts), LONGEST_BYTES)
    if not pc.any(long).as_py():
        return texts
    names = [_name(text) for text in texts.filter(long).view(pa.binary()).to_pylist()]
    return pc.replace_with_mask(texts, long, pa.array(names, pa.binary()).view(pa.string()))


def _name(text: bytes) -> bytes:
    # What is no UTF-8 stays as it is.
    beginning = text.decode(errors="surrogateescape")[:BEGINNING_CHARACTERS]
    digest = hashlib.sha256(text).hexdigest()
    return f"{beginning}... SHA-256 {digest}".encode(errors="surrogateescape")


def _of_pieces(
    of_file: Iterable[tuple[int, int, pa.RecordBatch]], begins: Array
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows of a file cut where another piece begins."""
    for _, _, rows in of_file:
        pieces = np.searchsorted(begins, rows[_ROW].to_numpy(), side="right") - 1
        for begin, end in _runs(np.diff(pieces)):
            yield int(pieces[begin]), rows.slice(begin, end - begin)


def _of_files(batches: Batches) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Rows cut where another file begins."""
    for rows in filter(len, batches):
        files, sizes = rows[_FILE].to_numpy(), rows[_BYTES].to_numpy()
        others = rows.select([name for name in rows.schema.names if name not in (_FILE, _BYTES)])
        for begin, end in _runs(np.diff(files)):
            yield int(files[begin]), int(sizes[begin]), others.slice(begin, end - begin)


def _runs(changes: Array) -> Iterator[tuple[int, int]]:
    """Where stretches of rows begin and end, by whether the next of each of n - 1 is another."""
    ends = np.flatnonzero(changes) + 1
    return itertools.pairwise([0, *ends.tolist(), len(changes) + 1])
