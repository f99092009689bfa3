"""Batch scoring on Spark: the raw rows of a day in, files of scores out, in one pass.

Spark brings the rows to canonical columns; its Python workers look the values up, run the model and
write the scores themselves (``feature_eng.scored_files``). Only file names and counts come back.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from conf import storage
from conf.errors import DataError
from conf.manifest import PADDING, FieldSpec
from conf.partition import EXPLANATION_TYPE, ScoreFile
from conf.scoring import EXPLANATION, MODEL_ID, SCORE, SCORED_AT, ScoreConfig
from feature_eng.encode import encode_rows
from feature_eng.raw import (
    KEY_HASH,
    KEYS,
    absent_column,
    field_column,
    has_source,
    key_columns,
    quoted,
    read_raw,
    rows_of_days,
    value_hash,
)
from feature_eng.scored_files import WRITTEN, Block, Found, ScoreWriter, key_file, write_file
from feature_eng.shipped import Shipped
from feature_eng.value_index import ValueIndex
from feature_eng.vocabulary import Vocabulary, by_name
from feature_eng.workers import in_worker

_SORTED_ROWS = 1 << 25  # 256 MB of hashes
_VALUES = "field string, value string, id int"


def rows_of_day(spark: SparkSession, config: ScoreConfig, ds: str) -> DataFrame:
    """The raw rows of one day.

    Raises:
        ConfigError: The raw table is not there.
        DataError: It has no date column.
    """
    return rows_of_days(read_raw(spark, config.raw), config.raw, ds, ds)


def canonical_score_rows(
    raw: DataFrame,
    fields: Sequence[FieldSpec],
    keys: Sequence[str],
    columns: Sequence[str] = (),
    optional: Collection[str] = (),
) -> DataFrame:
    """Fields in canonical types or by their hash, the kept columns as one struct, the keys' hash.

    The values of a field with a vocabulary stay where they are: what travels to the Python workers
    is their ``value_hash``.

    Args:
        raw: The table.
        fields: How each field was fitted.
        keys: Columns that name a row of the scores.
        columns: Others that go into the scores.
        optional: Fields that the table may lack the column of.

    Raises:
        DataError: A column is missing or of the wrong type.
    """
    canonical = [
        absent_column(field)
        if field.name in optional and not has_source(raw, field)
        else field_column(raw, field)
        for field in fields
    ]
    rows = raw.select(*canonical, key_columns(raw, dict.fromkeys([*keys, *columns])))
    # A hash passes over null: whether a key is null is a key of its own.
    parts = [part for key in keys for part in (F.col(KEYS)[key], F.col(KEYS)[key].isNull())]
    hashed = F.xxhash64(F.lit(0), *parts).alias(KEY_HASH)
    return rows.select(*map(_by_hash, fields), KEYS, hashed)


def _by_hash(field: FieldSpec) -> Column:
    """A canonical column, or the hashes of its values where there is a vocabulary."""
    value = F.col(quoted(field.name))
    if not field.has_vocabulary:
        return value
    if field.kind == "multi_valued":
        return F.transform(value, lambda one: value_hash(one, field.seed)).alias(field.name)
    return value_hash(value, field.seed).alias(field.name)


def kept_columns(rows: DataFrame) -> T.StructType:
    """The kept columns of canonical rows."""
    kept = rows.schema[KEYS].dataType
    assert isinstance(kept, T.StructType)
    return kept


@dataclass(frozen=True)
class Encoder:
    """Encodes canonical rows by the known values of a bundle, in Spark's Python workers.

    Attributes:
        fields: How each field was fitted.
        indices: What ``write_indices`` wrote.
    """

    fields: Sequence[FieldSpec]
    indices: Shipped

    def __call__(self, rows: pa.Table) -> Iterator[Block]:
        """One block of all rows."""
        names = tuple(field.name for field in self.fields if field.has_vocabulary)
        columns = encode_rows(rows, self.fields, _load_indices(self.indices.path(), names))
        hashes = rows[KEY_HASH].to_numpy()
        yield Block(columns, kept_values(rows), hashes, _nulls(rows, self.fields))


def kept_values(rows: pa.Table) -> dict[str, pa.Array]:
    """The kept columns of canonical rows."""
    names = [field.name for field in rows.schema.field(KEYS).type]
    return dict(zip(names, rows[KEYS].combine_chunks().flatten(), strict=True))


def _nulls(rows: pa.Table, fields: Iterable[FieldSpec]) -> dict[str, npt.NDArray[np.bool_]]:
    return {f.name: rows[f.name].is_null().to_numpy() for f in fields if f.kind == "numeric"}


def write_indices(vocabulary: Vocabulary, fields: Sequence[FieldSpec], directory: str) -> None:
    """Write the known values of a bundle's fields so that a worker can look values up.

    Null is one of them, whose id is the padding.

    Raises:
        DataError: Two values of a field have the same hash.
    """
    known = [field for field in fields if field.has_vocabulary]
    if not known:
        return
    found = {
        field.name: F.struct(
            F.lit(number).alias("field"), value_hash(F.col("value"), field.seed).alias("hash")
        )
        for number, field in enumerate(known)
    }
    values = vocabulary.entries.select("field", "value", "id")
    nothing = [(field.name, None, PADDING) for field in known]
    values = values.union(values.sparkSession.createDataFrame(nothing, _VALUES))
    entries = values.select(by_name(F.col("field"), found).alias("found"), "id")
    table = entries.select("found.field", "found.hash", "id").toArrow()
    numbers, hashes, ids = (table[name].to_numpy() for name in ("field", "hash", "id"))
    for number, field in enumerate(known):
        mine = numbers == number
        index = ValueIndex.of(hashes[mine], ids[mine])
        if len(index) < np.count_nonzero(mine):
            raise DataError(
                f"two known values of field '{field.name}', or one and null, have the same 64-bit "
                f"hash: set its seed to another number than {field.seed}, build the features "
                f"again and train"
            )
        index.save(f"{directory}/{field.name}.npy")


@functools.lru_cache(maxsize=2)  # users and items may have one each
def _load_indices(directory: str, names: tuple[str, ...]) -> Mapping[str, ValueIndex]:
    return {name: ValueIndex.load(f"{directory}/{name}.npy") for name in names}


def scores_schema(kept: T.StructType, *, explained: bool) -> pa.Schema:
    """The scores contract: the kept columns, ``score``, ``model_id`` and ``scored_at``.

    Args:
        kept: The key columns, and others.
        explained: Whether ``explanation`` follows.
    """
    schema = to_arrow_schema(kept, timestamp_utc=True)
    schema = schema.append(pa.field(SCORE, pa.float64(), nullable=False))
    schema = schema.append(pa.field(MODEL_ID, pa.string(), nullable=False))
    schema = schema.append(pa.field(SCORED_AT, pa.timestamp("us", tz="UTC"), nullable=False))
    return schema.append(pa.field(EXPLANATION, EXPLANATION_TYPE)) if explained else schema


def score_rows(
    rows: DataFrame, writer: ScoreWriter, pairs: int | None = None
) -> tuple[list[ScoreFile], Found]:
    """Score canonical rows, and write the scores.

    Args:
        rows: Canonical rows, or users to pair with items.
        writer: Runs in the Python workers.
        pairs: How many pairs the rows stand for; None where each is scored itself.

    Returns:
        The files, at least one, and what the rows were like.

    Raises:
        DataError: Not as many rows were scored as Spark handed to the workers, or as there are
            pairs; or not as many scores came out of them as are due.
    """
    if writer.by is not None:
        rows = spread(rows, F.col(KEYS)[writer.by])
    seen = Observation()
    rows = rows.observe(seen, F.count(F.lit(1)).alias("rows"))
    written = rows.mapInArrow(in_worker(writer.write), WRITTEN).collect()
    files = [ScoreFile(path=row.path, rows=row.rows, bytes=row.bytes) for row in written]
    found = Found.added_up([Found.from_json(row.found) for row in written])
    handed, what = (seen.get["rows"], "rows") if pairs is None else (pairs, "pairs")
    if found.rows != handed:
        raise DataError(
            f"{found.rows} of {handed} {what} were scored: nothing was published; if a table "
            f"changed meanwhile, run again, else report it as a bug, with the log of -v"
        )
    scored, due = sum(file.rows for file in files), sum(row.due for row in written)
    if scored != due:
        raise DataError(
            f"{scored} scores came out, {due} are due of {found.rows} rows: nothing was published; "
            f"run again, and if it comes back report it as a bug, with the log of -v"
        )
    if not files:
        nothing = iter([writer.schema.append(pa.field(KEY_HASH, pa.int64())).empty_table()])
        path = f"{writer.prefix}-0.parquet"
        empty = write_file(nothing, writer.schema, writer.constants, writer.directory, path)
        assert empty
        files = [empty]
    return files, found


def spread(rows: DataFrame, by: Column) -> DataFrame:
    """Shuffle rows into ``spark.sql.shuffle.partitions`` tasks, however few bytes they have.

    Spark by itself makes one task of what is small, and knows nothing of the work for each row.
    """
    tasks = int(str(rows.sparkSession.conf.get("spark.sql.shuffle.partitions")))
    return rows.repartition(tasks, by)


def count_duplicates(directory: str, files: Sequence[ScoreFile]) -> int:
    """Rows of scores whose keys, by their 64-bit hash, an earlier row has.

    Sorted here, for a shuffle takes ten times as long; so many at a time as a driver can hold.
    """
    parts = 1 + sum(file.rows for file in files) // _SORTED_ROWS
    return sum(_repeated(directory, files, part, parts) for part in range(parts))


def _repeated(directory: str, files: Sequence[ScoreFile], part: int, parts: int) -> int:
    def read(file: ScoreFile) -> npt.NDArray[np.int64]:
        fs, plain = storage.filesystem(f"{directory}/{key_file(file.path)}")
        hashes = np.frombuffer(fs.cat_file(plain), np.int64)
        return hashes if parts == 1 else hashes[hashes % parts == part]

    with ThreadPoolExecutor() as pool:
        ordered = np.sort(np.concatenate(list(pool.map(read, files))))
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
