"""The vocabulary: which known value of which field has which local id.

One table for all fields, columns ``field, value, id, count, first_seen, last_seen``. Nothing of it
is collected on the driver but sums per field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from conf.errors import DataError
from conf.fields import FieldConfig, VocabularyOptions
from conf.manifest import UNKNOWN, VOCABULARY
from feature_eng.spark_errors import first_line
from feature_eng.xxhash64 import FIRST_SEED, hash_ints, hash_texts

Array = npt.NDArray[Any]

_SCHEMA = "field string, value string, id int, count bigint, first_seen date, last_seen date"
_COLUMNS = [column.split()[0] for column in _SCHEMA.split(", ")]
_NO_LIMIT = 2**31 - 1
_LOWER = 2**32 - 1
_SEEDS = (0, 1)  # of a fingerprint's hashes
ENTRY_BYTES = 50  # of a value in memory, beside its text


class Limits(NamedTuple):
    """Which new values of a field are known.

    Attributes:
        min_count: Training rows that such a value is in, at least.
        room: Such values, at most.
        last: The id before the first of them.
    """

    min_count: int
    room: int
    last: int

    @classmethod
    def of(cls, options: VocabularyOptions, taken: int) -> "Limits":
        """Those of a field that is configured so, and of which ``taken`` values have ids."""
        room = (options.max_size or _NO_LIMIT) - taken
        return cls(options.min_count, room, UNKNOWN + options.num_oov_buckets - 1 + taken)


class Known(NamedTuple):
    """The known values of a field.

    Attributes:
        size: How many.
        text_bytes: Theirs.
        hashes: Two independent 64-bit hashes of each entry (field, value, id), added up modulo
            2**64: order cannot matter.
    """

    size: int
    text_bytes: int
    hashes: tuple[int, int]

    @classmethod
    def of(cls, field: str, values: pa.Array, ids: Array) -> "Known":
        """Those of a field: strings [V] and int32 [V]."""
        sums = []
        for seed in _SEEDS:
            hashes = hash_ints(FIRST_SEED, np.array([seed], np.int32))
            for texts in (pa.array([field]), values):
                hashes = hash_texts(hashes, texts)
            sums.append(int(hash_ints(hashes, ids).sum()))
        return cls(len(ids), pc.sum(pc.binary_length(values)).as_py() or 0, (sums[0], sums[1]))


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary.

    Attributes:
        entries: Its table.
        fields: What is known of each field.
    """

    entries: DataFrame
    fields: Mapping[str, Known]

    @property
    def fingerprint(self) -> str:
        """Of the content (field, value, id), whatever the files or their order."""
        sums = (sum(known.hashes[n] for known in self.fields.values()) for n in range(len(_SEEDS)))
        return "".join(f"{total % 2**64:016x}" for total in sums)

    @property
    def sizes(self) -> dict[str, int]:
        """Known values per field."""
        return {field: known.size for field, known in self.fields.items()}

    def memory(self, field: str) -> int:
        """Bytes of a field's known values in memory, about."""
        known = self.fields.get(field)
        return known.text_bytes + ENTRY_BYTES * known.size if known else 0


def fit_vocabulary(
    dictionaries: DataFrame, fields: Sequence[FieldConfig], base: Vocabulary | None = None
) -> DataFrame:
    """Add up the counts of every field's values and number those that are known.

    Args:
        dictionaries: Those of all chunks (see ``feature_eng.chunks``).
        fields: Those to fit; what has no vocabulary is passed over.
        base: An earlier vocabulary to grow: its values keep their ids, also those that no row
            holds any more, and new ones follow after the greatest.

    Returns:
        ``field string, value string, id int, count bigint, first_seen date, last_seen date``;
        within a field new ids run from 1 + ``num_oov_buckets``, by count descending, then by value
        in byte order. A row counts once for each value it holds. Counts are of these rows; days
        are those of these rows and of the base.
    """
    options = {field.name: field for field in fields if isinstance(field, VocabularyOptions)}
    if not options:
        return dictionaries.sparkSession.createDataFrame([], _SCHEMA)
    counts = _add_up(dictionaries.where(F.col("field").isin(*options)))
    limits = {}
    for name, of in options.items():
        found = Limits.of(of, base.sizes.get(name, 0) if base else 0)
        limits[name] = F.struct(*(F.lit(n).alias(key) for key, n in found._asdict().items()))
    order = Window.partitionBy("field").orderBy(F.desc("count"), "value")
    new = (
        (counts.join(base.entries, ["field", "value"], "left_anti") if base else counts)
        .withColumn("of", by_name(F.col("field"), limits))
        .where(F.col("count") >= F.col("of.min_count"))
        .withColumn("rank", F.row_number().over(order))
        .where(F.col("rank") <= F.col("of.room"))
        .withColumn("id", F.col("rank") + F.col("of.last"))
        .select(_COLUMNS)
    )
    if not base:
        return new
    known = (
        base.entries.where(F.col("field").isin(*options))
        .join(counts.alias("now"), ["field", "value"], "left")
        .select(
            *("field", "value", "id"),
            F.coalesce("now.count", F.lit(0)).alias("count"),
            F.least(base.entries["first_seen"], "now.first_seen").alias("first_seen"),
            F.greatest(base.entries["last_seen"], "now.last_seen").alias("last_seen"),
        )
    )
    return new.unionByName(known)


def _add_up(dictionaries: DataFrame) -> DataFrame:
    return (
        dictionaries.where(F.col("count") > 0)
        .groupBy("field", "value")
        .agg(
            F.sum("count").alias("count"),
            F.min("first_seen").alias("first_seen"),
            F.max("last_seen").alias("last_seen"),
        )
    )


def by_name(field: Column, choices: dict[str, Column]) -> Column:
    """What the name of a field chooses; null for others."""
    (first, chosen), *others = choices.items()
    column = F.when(field == first, chosen)
    for name, choice in others:
        column = column.when(field == name, choice)
    return column


def write_vocabulary(vocabulary: DataFrame, directory: str) -> None:
    """Write it to ``<directory>/vocabulary``, beside what is there."""
    vocabulary.write.mode("append").option("compression", "zstd").parquet(
        f"{directory}/{VOCABULARY}"
    )


def open_vocabulary(spark: SparkSession, directory: str) -> DataFrame:
    """The table that was written to ``<directory>/vocabulary``."""
    return spark.read.schema(_SCHEMA).parquet(f"{directory}/{VOCABULARY}")


def read_vocabulary(spark: SparkSession, directory: str, expected: str | None = None) -> Vocabulary:
    """Read the vocabulary of a features directory or of a bundle.

    Args:
        spark: The session.
        directory: Theirs.
        expected: The fingerprint that the manifest speaks of; None if any will do.

    Raises:
        DataError: It is missing, or not the expected one.
    """
    path = f"{directory}/{VOCABULARY}"
    try:
        entries = open_vocabulary(spark, directory)
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(
            f"no readable vocabulary at '{path}' ({first_line(error)}); restore it or build the "
            f"features again"
        ) from None
    vocabulary = measured(entries)  # a file that cannot be read is named by Spark
    if expected is not None and vocabulary.fingerprint != expected:
        raise DataError(
            f"the vocabulary in '{directory}' has fingerprint {vocabulary.fingerprint}, its "
            f"manifest says {expected}: the files were changed; restore them or build and train "
            f"again"
        )
    return vocabulary


def measured(entries: DataFrame) -> Vocabulary:
    """Look through the table of a vocabulary, once."""
    content = [F.col("field"), F.col("value"), F.col("id")]
    hashes = [F.xxhash64(F.lit(seed), *content) for seed in _SEEDS]
    # By halves: a sum of whole ones would overflow under ANSI rules, one of decimals is slow.
    halves = [half for h in hashes for half in (F.shiftright(h, 32), h.bitwiseAND(_LOWER))]
    sums = [F.sum(half).alias(f"half{number}") for number, half in enumerate(halves)]
    text_bytes = F.sum(F.octet_length("value")).alias("text_bytes")
    found = (
        entries.groupBy("field").agg(F.count(F.lit(1)).alias("size"), text_bytes, *sums).collect()
    )
    fields: dict[str, Known] = {}
    for row in found:
        high0, low0, high1, low1 = (row[f"half{n}"] for n in range(4))
        totals = ((high0 << 32) + low0) % 2**64, ((high1 << 32) + low1) % 2**64
        fields[row["field"]] = Known(row["size"], row["text_bytes"], totals)
    return Vocabulary(entries, fields)
