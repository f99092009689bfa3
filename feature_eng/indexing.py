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
from feature_eng.vocabulary import Limits
from feature_eng.workers import Batches, in_worker

Array = npt.NDArray[Any]

_COUNTED = ["value", "count", "first_seen", "last_seen"]
_COLUMNS = ["value", "id", "count", "first_seen", "last_seen"]
_IDS = pa.schema([("id", pa.int32())])

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Indexer:
    """Numbers the values of fields; runs in Spark's Python workers.

    Attributes:
        packed: The chunks.
        limits: Which values are known, by field.
        base: Features or a bundle whose vocabulary grows, or None.
        vocabulary: The directory that receives the vocabulary.
        ids: The directory that receives the ids of the chunks' values.
    """

    packed: Packed
    limits: Mapping[str, Limits]
    base: str | None
    vocabulary: str
    ids: str

    def index(self, batches: Batches) -> Batches:
        """Index the fields at some places of ``limits``; each has files of one name."""
        fields = list(self.limits)
        for batch in batches:
            for place in batch.column(0).to_pylist():
                name = self._index(fields[place])
                yield pa.record_batch([[fields[place]], [name]], ["field", "name"])

    def _index(self, field: str) -> str:
        of_chunks = [_entries(path, field) for path in self.packed.paths]
        entries = pa.concat_tables(of_chunks)
        base = value_ids(self.base, field, *_COLUMNS[2:]) if self.base else None
        known = number(entries, self.limits[field], base)
        place = pc.index_in(entries["value"], known["value"])
        ids = known["id"].take(place).fill_null(UNKNOWN).combine_chunks()
        name = uuid.uuid4().hex  # a task that is tried again writes under another
        with create(f"{self.vocabulary}/{name}.parquet") as file:
            named = known.add_column(0, "field", pa.repeat(pa.scalar(field), len(known)))
            pq.write_table(named, file, compression="zstd")
        with create(f"{self.ids}/{name}.arrow") as file, pa.ipc.new_file(file, _IDS) as writer:
            for of_chunk in of_chunks:
                writer.write_batch(pa.record_batch([ids[: len(of_chunk)]], schema=_IDS))
                ids = ids[len(of_chunk) :]
        return name


def index_fields(
    spark: SparkSession,
    packed: Packed,
    fields: Sequence[FieldConfig],
    base: Base | None,
    staging: str,
) -> dict[str, str]:
    """Number the values of all fields that are small enough, and write their vocabularies.

    Unknown values that share ids by a hash are left to Spark, which has the hash.

    Args:
        spark: The session.
        packed: The chunks.
        fields: All fields.
        base: Earlier features to grow.
        staging: Where ``vocabulary`` goes.

    Returns:
        By field that was indexed, the file of its values' ids: see ``read_ids``.
    """
    of_field = {
        field.name: field
        for field in fields
        if isinstance(field, VocabularyOptions) and field.num_oov_buckets == 1
    }
    memory = {
        name: packed.entry_bytes[name] + (base.vocabulary.memory(name) if base else 0)
        for name in of_field
    }
    small = sorted((n for n in memory if memory[n] <= WORKER_BYTES), key=lambda n: -memory[n])
    logger.info("vocabularies made by one worker each: %s", ", ".join(small) or "none")
    if not small:
        return {}
    tasks = min(len(small), spark.sparkContext.defaultParallelism)
    dealt = [name for task in range(tasks) for name in small[task::tasks]]
    taken = base.vocabulary.sizes if base else {}
    indexer = _Indexer(
        packed=packed,
        limits={name: Limits.of(of_field[name], taken.get(name, 0)) for name in dealt},
        base=storage.absolute(base.directory) if base else None,
        vocabulary=storage.absolute(f"{staging}/{VOCABULARY}"),
        ids=f"{packed.directory}/ids",
    )
    for directory in (indexer.vocabulary, indexer.ids):  # not by the tasks (see chunks.pack)
        storage.make_directory(directory)
    places = spark.range(0, len(dealt), 1, tasks)
    written = places.mapInArrow(in_worker(indexer.index), "field string, name string").collect()
    storage.remove_others(indexer.vocabulary, {f"{row['name']}.parquet" for row in written})
    return {row["field"]: f"{indexer.ids}/{row['name']}.arrow" for row in written}


def number(entries: pa.Table, limits: Limits, base: pa.Table | None = None) -> pa.Table:
    """Number the values of a field as ``feature_eng.vocabulary.fit_vocabulary`` does.

    Args:
        entries: Columns ``value, count, first_seen, last_seen``; a value may stand there often.
        limits: Which values are known.
        base: The values of the vocabulary that grows, columns as returned; None for none.

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
    if base:
        new = new.filter(pc.invert(pc.is_in(new["value"], base["value"])))
    # Arrow compares strings by their bytes, as Spark does.
    order = pc.sort_indices(new, [("count", "descending"), ("value", "ascending")])
    new = new.take(order[: max(0, limits.room)])
    ids = np.arange(len(new), dtype=np.int32) + np.int32(limits.last + 1)
    numbered = new.add_column(1, "id", pa.array(ids, pa.int32()))
    if not base:
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


def _entries(path: str, field: str) -> pa.Table:
    fs, plain = storage.filesystem(path)
    with fs.open(plain, "rb") as file:
        return pq.read_table(file, columns=_COUNTED, filters=[("field", "==", field)])
