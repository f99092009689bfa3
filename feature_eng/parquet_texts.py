"""Text columns of Parquet files, which Spark's Python workers read by themselves.

Spark hands a worker one text after the other, which was half of a build's time; a Parquet file has
the texts of a row group's column once, with a code for each row, as the chunks want them. So Spark
reads all else, decides which rows there are, and says where in which file each of them lies; the
worker that gets a row fetches its texts from there.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame
from pyspark.sql import types as T

from conf import storage
from conf.errors import DataError
from conf.manifest import FieldSpec
from conf.schema import Config
from feature_eng.raw import BEGINNING_CHARACTERS, LONGEST_BYTES
from feature_eng.workers import Batches

Array = npt.NDArray[Any]

_FILE, _BYTES, _ROW = _PLACE = ["_file", "_bytes", "_row"]


def text_columns(raw: DataFrame, config: Config, fields: Sequence[FieldSpec]) -> dict[str, str]:
    """The columns that workers can read by themselves, by field: texts of Parquet files as such.

    A drawn row lies in no file, and a partition's value is the name of a directory. What a
    catalog's table holds may be more than its files say.
    """
    if config.raw.path is None or config.raw.format != "parquet" or config.negatives:
        return {}
    # All files have the same partitions. A directory's name is escaped, and then its URI.
    paths = [unquote(unquote(path)) for path in itertools.islice(raw._jdf.inputFiles(), 1)]
    partitions = {part.partition("=")[0].lower() for path in paths for part in path.split("/")}
    return {
        field.name: field.source
        for field in fields
        if field.kind == "categorical"
        and not field.is_expr
        and field.source in raw.columns
        and raw.schema[field.source].dataType == T.StringType()
        and field.source.lower() not in partitions
    }


def place_columns(raw: DataFrame) -> list[Column]:
    """Where each row of Parquet files lies."""
    place = raw.metadataColumn("_metadata")
    said = ("file_path", "file_size", "row_index")
    return [place[of_spark].alias(name) for of_spark, name in zip(said, _PLACE, strict=True)]


def with_texts(batches: Batches, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    """Give rows the texts of their fields, in place of ``place_columns``.

    Args:
        batches: Rows.
        columns: What ``text_columns`` found.

    Yields:
        The rows of a row group, their texts coded by dictionaries, which may hold more. A long text
        is named as ``feature_eng.raw`` names it.

    Raises:
        DataError: A file cannot be read, was replaced meanwhile, or has no texts where it should.
    """
    for (file, group), cut in itertools.groupby(_of_row_groups(batches), lambda at: at[:2]):
        rows = pa.Table.from_batches([rows for _, _, rows in cut])
        places = pa.array(rows[_ROW].to_numpy() - file.begins[group])
        texts = file.texts(group, set(columns.values()))
        for name, column in columns.items():
            rows = rows.append_column(name, texts[column].take(places))
        yield rows.drop_columns(_PLACE)


class _File:
    """A Parquet file.

    Attributes:
        path: As Spark names it.
        begins: The places of the first rows of all row groups, and of the row after the last.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self._fs, self._plain = storage.filesystem(unquote(path))
        with self._opened() as file:
            self._footer = pq.read_metadata(file)
        groups = range(self._footer.num_row_groups)
        self.begins = np.cumsum([0, *(self._footer.row_group(n).num_rows for n in groups)])
        if (found := self._fs.size(self._plain)) != size:
            raise DataError(
                f"'{path}' had {size} bytes and has {found} now: it was replaced while it was "
                f"read; build again when the raw table is complete"
            )

    def texts(self, group: int, columns: Collection[str]) -> dict[str, pa.DictionaryArray]:
        """Columns of a row group; one that the file does not have is null, as in Spark."""
        # Spark finds a column whatever the case of its letters.
        names = {name.lower(): name for name in self._footer.schema.to_arrow_schema().names}
        there = [names[column.lower()] for column in columns if column.lower() in names]
        with self._opened() as file:
            opened = pq.ParquetFile(file, metadata=self._footer, read_dictionary=there)
            read = opened.read_row_group(group, there, use_threads=False)
        rows = self.begins[group + 1] - self.begins[group]
        absent = pa.chunked_array([pa.nulls(rows, pa.string())])
        found = {name.lower(): read[name] for name in there}
        return {name: self._coded(found.get(name.lower(), absent), name) for name in columns}

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with self._fs.open(self._plain, "rb") as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            reason = str(error).split("\n")[0]
            raise DataError(f"'{self.path}' cannot be read by Python workers: {reason}") from None

    def _coded(self, column: pa.ChunkedArray, name: str) -> pa.DictionaryArray:
        texts = coded(column).combine_chunks()
        kind = texts.type.value_type
        if not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
            raise DataError(
                f"'{self.path}': column '{name}' is {kind}, but a string in other files of the "
                f"raw table; write them all with one type"
            )
        # A text that its writer did not mark as one is binary.
        words = _shortened(texts.dictionary.view(pa.string()))
        return pa.DictionaryArray.from_arrays(texts.indices, words)


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


def _of_row_groups(batches: Batches) -> Iterator[tuple[_File, int, pa.RecordBatch]]:
    """Rows cut where another row group begins."""
    file = None
    for path, size, rows in _of_files(batches):
        if file is None or file.path != path:
            file = _File(path, size)
        groups = np.searchsorted(file.begins, rows[_ROW].to_numpy(), side="right") - 1
        for begin, end in _runs(np.diff(groups)):
            yield file, int(groups[begin]), rows.slice(begin, end - begin)


def _of_files(batches: Batches) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """Rows cut where another file begins."""
    for rows in filter(len, batches):
        paths = rows[_FILE]
        changes = pc.not_equal(paths[1:], paths[:-1]).to_numpy(zero_copy_only=False)
        for begin, end in _runs(changes):
            path, size = (rows[name][begin].as_py() for name in (_FILE, _BYTES))
            yield path, size, rows.slice(begin, end - begin)


def _runs(changes: Array) -> Iterator[tuple[int, int]]:
    """Where stretches of rows begin and end, by whether the next of each of n - 1 is another."""
    ends = np.flatnonzero(changes) + 1
    return itertools.pairwise([0, *ends.tolist(), len(changes) + 1])
