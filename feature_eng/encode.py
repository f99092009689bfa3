"""Values to local ids: those of a chunk by their codes, in scoring by hash; then encoded alike."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.manifest import MISSING, PADDING, UNKNOWN, FieldSpec
from feature_eng.chunks import Packed, codes_of, places, read_rows
from feature_eng.indexing import read_ids
from feature_eng.raw import hashed_id
from feature_eng.value_index import ValueIndex
from feature_eng.vocabulary import Vocabulary
from feature_eng.workers import Batches

Array = npt.NDArray[Any]

# Of known values, of all fields together, that are copied to every executor; the driver holds them
# for a moment, several times as large. Past it Spark joins by shuffling.
BROADCAST_BYTES = 50_000_000

logger = logging.getLogger(__name__)


def local_ids(
    packed: Packed,
    vocabulary: Vocabulary,
    fields: Sequence[FieldSpec],
    indexed: Collection[str] = (),
) -> DataFrame:
    """Find the ids of all chunks' values.

    A value is looked up once per chunk that holds it, however many rows do, so that no value makes
    a join lopsided.

    Args:
        packed: The chunks.
        vocabulary: The known values.
        fields: How each field was fitted.
        indexed: The fields whose ids are known already.

    Returns:
        ``chunk bigint, field string, code int, id int``, the entries of a chunk in one partition;
        one of them is of no field, so that each chunk is there.
    """
    spark, chunks = vocabulary.entries.sparkSession, len(packed.chunks)
    none = F.lit(None).cast("string").alias("field")
    no_field = (none, F.lit(0).alias("code"), F.lit(0).alias("id"))
    chunk = F.get(F.lit(packed.chunks), F.col("id").cast("int")).alias("chunk")
    every_chunk = spark.range(0, chunks, 1, chunks).select(chunk, *no_field)
    left = [field.name for field in fields if field.has_vocabulary and field.name not in indexed]
    if not left:
        return every_chunk
    copied, joined = _by_size(vocabulary, left)
    logger.info("vocabularies copied to executors: %s", ", ".join(copied) or "none")
    logger.info("vocabularies joined by shuffling: %s", ", ".join(joined) or "none")
    dictionaries = packed.dictionaries(spark)
    known = vocabulary.entries.select("field", "value", "id")
    key, of_field = ["field", "value"], F.col("field")
    found = dictionaries.where(of_field.isin(copied)).join(
        F.broadcast(known.where(of_field.isin(copied))), key, how="left"
    )
    if joined:
        found = found.unionByName(
            dictionaries.where(of_field.isin(joined)).join(
                known.where(of_field.isin(joined)).hint("merge"), key, how="left"
            )
        )
    local_id = F.coalesce("id", _unknown_id(fields)).alias("id")
    chosen = found.select("chunk", "field", "code", local_id).unionByName(every_chunk)
    # By a number of our own: Spark would join small partitions, knowing nothing of the rows' size.
    return chosen.repartition(chunks, "chunk")


def _by_size(vocabulary: Vocabulary, fields: Sequence[str]) -> tuple[list[str], list[str]]:
    """The fields whose vocabularies, smallest first, fit ``BROADCAST_BYTES``, and the others."""
    names = sorted(fields, key=vocabulary.memory)
    sizes = np.cumsum([vocabulary.memory(name) for name in names])
    fitting = int(np.searchsorted(sizes, BROADCAST_BYTES, side="right"))
    return names[:fitting], names[fitting:]


def _unknown_id(fields: Sequence[FieldSpec]) -> Column:
    """The id of a value that is not known, by a hash where there are several."""
    column = F.lit(UNKNOWN)
    for field in fields:
        if field.has_vocabulary and field.oov_buckets > 1:
            hashed = hashed_id(F.col("value"), field.oov_buckets, field.seed)
            column = F.when(F.col("field") == field.name, hashed).otherwise(column)
    return column


def encoded_chunks(
    batches: Batches, fields: Sequence[FieldSpec], packed: Packed, indexed: Mapping[str, str]
) -> Iterator[tuple[pa.Table, dict[str, Array]]]:
    """Encode the chunks that a partition of ``local_ids`` names.

    Args:
        batches: The partition.
        fields: How each field was fitted.
        packed: The chunks.
        indexed: The files of ``feature_eng.indexing.index_fields``.

    Yields:
        Per chunk its rows as they were packed, and per field int32 [n] (categorical, hashed,
        bucketised), int32 [n, length] (multi-valued, padded with -1) or float32 [n] (numeric).
    """
    held = list(batches)
    if not held:
        return
    entries = pa.Table.from_batches(held).combine_chunks()
    for chunk in pc.unique(entries["chunk"]).to_pylist():
        by_code = _ids_by_field(entries.filter(pc.equal(entries["chunk"], chunk)))
        place = packed.chunks.index(chunk)
        by_code |= {name: read_ids(path, place) for name, path in indexed.items()}
        rows = read_rows(packed.directory, chunk)
        yield (
            rows,
            {field.name: _encode(rows, field, _ids(rows, field, by_code)) for field in fields},
        )


def _ids_by_field(entries: pa.Table) -> dict[str, Array]:
    """The id of each code, by field."""
    names = entries["field"].combine_chunks().dictionary_encode()
    numbers = names.indices.fill_null(len(names.dictionary)).to_numpy(zero_copy_only=False)
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(len(names.dictionary) + 1))
    codes, ids = entries["code"].to_numpy()[order], entries["id"].to_numpy()[order]
    found = {}
    for number, name in enumerate(names.dictionary.to_pylist()):
        here = slice(ends[number], ends[number + 1])
        by_code = np.empty(here.stop - here.start, np.int32)
        by_code[codes[here]] = ids[here]
        found[name] = by_code
    return found


def encode_rows(
    rows: pa.Table, fields: Sequence[FieldSpec], indices: Mapping[str, ValueIndex]
) -> dict[str, Array]:
    """Encode canonical rows, as ``encoded_chunks`` does.

    Args:
        rows: Canonical columns, in which the hash of a value stands for it where a field has a
            vocabulary.
        fields: How each was fitted.
        indices: The known values of each field with a vocabulary.
    """
    return {field.name: _encode(rows, field, _found(rows, field, indices)) for field in fields}


def _found(rows: pa.Table, field: FieldSpec, indices: Mapping[str, ValueIndex]) -> Array | None:
    """The ids of a field's values, padded: int32 [n, L]."""
    if not field.has_vocabulary:
        return None
    column, index = rows[field.name].combine_chunks(), indices[field.name]
    if field.kind == "categorical":
        return index.find(column.to_numpy(), field.oov_buckets).reshape(-1, 1)
    row, place = places(column)
    kept = place < field.length
    ids = index.find(pc.list_flatten(column).to_numpy(), field.oov_buckets)
    ids_nL = np.full((len(column), field.length), PADDING, np.int32)
    ids_nL[row[kept], place[kept]] = ids[kept]
    return ids_nL


def _ids(rows: pa.Table, field: FieldSpec, by_code: Mapping[str, Array]) -> Array | None:
    """The ids of the codes of a chunk, padded: int32 [n, L]; a field without values has none."""
    if not field.has_vocabulary:
        return None
    # The code of no value is -1: it takes the last.
    ids = np.append(by_code.get(field.name, []), PADDING).astype(np.int32)
    return np.take(ids, codes_of(rows, field))


def _encode(rows: pa.Table, field: FieldSpec, ids_nL: Array | None) -> Array:
    """A field of canonical rows; the ids of its values are known, where it has a vocabulary."""
    if ids_nL is not None:
        first = ids_nL[:, 0]
        first[first == PADDING] = MISSING
        return ids_nL if field.kind == "multi_valued" else first
    column = rows[field.name]
    if field.kind == "hashed":
        hashed: Array = column.to_numpy()
        return hashed
    values = column.cast(pa.float64()).to_numpy().astype(np.float64, copy=False)
    if field.kind == "bucketised":
        reached = field.first_known + np.searchsorted(field.edges, values, side="right")
        return np.where(np.isnan(values), MISSING, reached).astype(np.int32)
    x = (values - field.shift) / field.scale
    # What is so far out that no float32 holds it stays a number.
    greatest = np.finfo(np.float32).max
    return np.clip(np.where(np.isnan(x), 0.0, x), -greatest, greatest).astype(np.float32)
