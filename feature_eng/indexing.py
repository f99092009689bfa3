"""Fields whose values one Python worker can hold: fitted and looked up there, without a shuffle.

Spark numbers the values of larger fields (``feature_eng.vocabulary``) and finds them again
(``feature_eng.encode``) by joins, which spill where memory ends but take microseconds a value.
Both ways give the same vocabulary and the same ids.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from conf import storage
from conf.fields import FieldConfig, VocabularyOptions
from conf.manifest import UNKNOWN, VOCABULARY
from conf.vocabulary import value_ids
from feature_eng.base import Base
from feature_eng.chunks import WORKER_BYTES, Packed, create
from feature_eng.vocabulary import Known, Limits
from feature_eng.workers import Batches, in_worker
from feature_eng.xxhash64 import FIRST_SEED, hash_ints, hash_texts

Array = npt.NDArray[Any]

_COUNTED = ["value", "count", "first_seen", "last_seen"]
_COLUMNS = ["value", "id", "count", "first_seen", "last_seen"]
_IDS = pa.schema([("id", pa.int32())])
_INDEXED = "field string, name string, size bigint, text_bytes bigint, hashes array<bigint>"
_COPIES = 4  # of a field's entries that are in memory at once, about

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Indexer:
    """Numbers the values of fields; runs in Spark's Python workers.

    Attributes:
        packed: The chunks.
        limits: Which values are known, by field.
        buckets: How many ids unknown values share, by field.
        base: Features or a bundle whose vocabulary grows, or None.
        vocabulary: The directory that receives the vocabulary.
        ids: The directory that receives the ids of the chunks' values.
        tasks: Who share the fields.
    """

    packed: Packed
    limits: Mapping[str, Limits]
    buckets: Mapping[str, int]
    base: str | None
    vocabulary: str
    ids: str
    tasks: int

    def index(self, batches: Batches) -> Batches:
        """Index every n-th field from the one on whose place a partition has; n are the tasks."""
        fields = list(self.limits)
        for batch in batches:
            for task in batch.column(0).to_pylist():
                for field in fields[task :: self.tasks]:
                    name, known = self._index(field)
                    size, text_bytes, sums = known
                    hashes = pa.array([np.array(sums, np.uint64).view(np.int64)])
                    yield pa.record_batch(
                        [[field], [name], [size], [text_bytes], hashes],
                        ["field", "name", "size", "text_bytes", "hashes"],
                    )

    def _index(self, field: str) -> tuple[str, Known]:
        of_chunks = [_entries(path, field) for path in self.packed.paths]
        entries = pa.concat_tables(of_chunks)
        base = value_ids(self.base, field, "first_seen", "last_seen") if self.base else None
        known = number(entries, self.limits[field], base)
        values = entries["value"].combine_chunks()
        place = pc.index_in(values, known["value"])
        unknown = _unknown_ids(values, self.buckets[field])
        ids = pc.coalesce(known["id"].combine_chunks().take(place), unknown)
        name = uuid.uuid4().hex  # a task that is tried again writes under another
        with create(f"{self.vocabulary}/{name}.parquet") as file:
            named = known.add_column(0, "field", pa.repeat(pa.scalar(field), len(known)))
            pq.write_table(named, file, compression="zstd")
        with create(f"{self.ids}/{name}.arrow") as file, pa.ipc.new_file(file, _IDS) as writer:
            for of_chunk in of_chunks:
                writer.write_batch(pa.record_batch([ids[: len(of_chunk)]], schema=_IDS))
                ids = ids[len(of_chunk) :]
        numbered = known.combine_chunks()
        return name, Known.of(field, numbered["value"].chunk(0), numbered["id"].to_numpy())


def index_fields(
    spark: SparkSession,
    packed: Packed,
    fields: Sequence[FieldConfig],
    base: Base | None,
    staging: str,
) -> tuple[dict[str, str], dict[str, Known]]:
    """Number the values of all fields that are small enough, and write their vocabularies.

    Args:
        spark: The session.
        packed: The chunks.
        fields: All fields.
        base: Earlier features to grow.
        staging: Receives ``vocabulary``.

    Returns:
        By field that was indexed, the file of its values' ids (see ``read_ids``), and its
        vocabulary.
    """
    of_field = {field.name: field for field in fields if isinstance(field, VocabularyOptions)}
    memory = {
        name: packed.entry_bytes[name] + (base.vocabulary.memory(name) if base else 0)
        for name in of_field
    }
    few = WORKER_BYTES // _COPIES
    small = sorted((name for name in memory if memory[name] <= few), key=lambda name: -memory[name])
    logger.info("vocabularies made by one worker each: %s", ", ".join(small) or "none")
    if not small:
        return {}, {}
    taken = base.vocabulary.sizes if base else {}
    indexer = _Indexer(
        packed=packed,
        limits={name: Limits.of(of_field[name], taken.get(name, 0)) for name in small},
        buckets={name: of_field[name].num_oov_buckets for name in small},
        base=storage.absolute(base.directory) if base else None,
        vocabulary=f"{packed.directory}/{VOCABULARY}",
        ids=f"{packed.directory}/ids",
        tasks=min(len(small), spark.sparkContext.defaultParallelism),
    )
    for directory in (indexer.vocabulary, indexer.ids):  # not by the tasks (see chunks.pack)
        storage.make_directory(directory)
    tasks = spark.range(0, indexer.tasks, 1, indexer.tasks)
    written = tasks.mapInArrow(in_worker(indexer.index), _INDEXED).collect()
    # A task that lost against a second try may still be writing where it was told to.
    files = [f"{row['name']}.parquet" for row in written]
    storage.move_files(indexer.vocabulary, f"{staging}/{VOCABULARY}", files)
    known = {}
    for row in written:
        hash0, hash1 = (h % 2**64 for h in row["hashes"])
        known[row["field"]] = Known(row["size"], row["text_bytes"], (hash0, hash1))
    return {row["field"]: f"{indexer.ids}/{row['name']}.arrow" for row in written}, known


def number(entries: pa.Table, limits: Limits, base: pa.Table | None = None) -> pa.Table:
    """Number the values of a field as ``feature_eng.vocabulary.fit_vocabulary`` does.

    Args:
        entries: Columns ``value, count, first_seen, last_seen``; a value may stand there often.
        limits: Which values are known.
        base: The vocabulary that grows: ``value, id, first_seen, last_seen``; None for none.

    Returns:
        Columns ``value string, id int, count bigint, first_seen date, last_seen date``.
    """
    counts = (
        entries.filter(pc.greater(entries["count"], 0))
        .group_by("value", use_threads=False)
        .aggregate([("count", "sum"), ("first_seen", "min"), ("last_seen", "max")])
        .select(["value", "count_sum", "first_seen_min", "last_seen_max"])
        .rename_columns(_COUNTED)
    )
    new = counts.filter(pc.greater_equal(counts["count"], limits.min_count))
    if base is not None:
        new = new.filter(pc.invert(pc.is_in(new["value"], base["value"])))
    # Arrow compares strings by their bytes, as Spark does.
    order = pc.sort_indices(new, [("count", "descending"), ("value", "ascending")])
    new = new.take(order[: max(0, limits.room)])
    ids = np.arange(len(new), dtype=np.int32) + np.int32(limits.last + 1)
    numbered = new.add_column(1, "id", pa.array(ids, pa.int32()))
    if base is None:
        return numbered
    now = counts.take(pc.index_in(base["value"], counts["value"]))
    known = [
        base["value"],
        base["id"],
        now["count"].fill_null(0),
        pc.min_element_wise(base["first_seen"], now["first_seen"]),
        pc.max_element_wise(base["last_seen"], now["last_seen"]),
    ]
    return pa.concat_tables([numbered, pa.table(known, names=_COLUMNS)])


def read_ids(path: str, place: int) -> Array:
    """The ids of a field's values in a chunk by their codes: int32.

    Args:
        path: A file of ``index_fields``.
        place: Of the chunk among all.
    """
    fs, plain = storage.filesystem(path)
    with fs.open(plain, "rb") as file:
        ids: Array = pa.ipc.open_file(file).get_batch(place)["id"].to_numpy()
    return ids


def _unknown_ids(values: pa.Array, buckets: int) -> pa.Array:
    """The ids of values that are not known, as ``feature_eng.raw.hashed_id`` has them."""
    seed = hash_ints(FIRST_SEED, np.array([0], np.int32))  # that of all vocabularies
    hashes = hash_texts(seed, values).view(np.int64)
    return pa.array((UNKNOWN + hashes % buckets).astype(np.int32))


def _entries(path: str, field: str) -> pa.Table:
    fs, plain = storage.filesystem(path)
    with fs.open(plain, "rb") as file:
        return pq.read_table(file, columns=_COUNTED, filters=[("field", "==", field)])
