"""The encoded splits on disk, and what their own footers and columns say of them."""

from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from conf import storage
from conf.errors import RunError
from conf.manifest import MISSING, PADDING, UNKNOWN, FieldSpec, FileSpec
from conf.schema import SPLITS
from feature_eng.raw import KEYS, SPLIT
from feature_eng.split import key_hash

# Larger than any file of row_group_rows rows, so that a file is one row group.
_PARQUET_BLOCK_BYTES = 1 << 30


def write_splits(encoded: DataFrame, directory: str, *, num_files: int, seed: int) -> None:
    """Write ``<directory>/{train,valid,test}``, rows in the order of a seeded hash of their keys.

    Each task writes one file per split. The same rows give the same files wherever they came
    from; rows that share their keys are told apart by the rest.

    Args:
        encoded: Encoded fields, label, weight if any, ``_keys`` and ``_split``.
        directory: Where to write; must be empty.
        num_files: Files of each split.
        seed: Of the hash that shuffles.
    """
    values = [name for name in encoded.columns if name != KEYS]
    shuffled = (
        encoded.withColumn("_order", key_hash(F.col(KEYS), seed))
        .repartition(num_files, "_order")
        .sortWithinPartitions(SPLIT, "_order", F.xxhash64(*values))
        .drop("_order", KEYS)
    )
    parts = f"{directory}/.parts"
    writer = shuffled.write.partitionBy(SPLIT).option("compression", "zstd")
    writer.option("parquet.block.size", _PARQUET_BLOCK_BYTES).parquet(parts)
    fs, plain = storage.filesystem(directory)
    for split in SPLITS:
        storage.move_directory(fs, f"{plain}/.parts/{SPLIT}={split}", f"{plain}/{split}")
    fs.rm(f"{plain}/.parts", recursive=True)


def list_files(directory: str, split: str) -> list[FileSpec]:
    """The Parquet files of a split in name order, with the row counts of their footers.

    Raises:
        RunError: A file holds more than one row group.
    """
    files = []
    for path, footer in _footers(f"{directory}/{split}"):
        if footer.num_row_groups > 1:
            raise RunError(
                f"'{path}' came out with {footer.num_row_groups} row groups, one was expected: a "
                f"writer had too little memory; lower features.row_group_rows"
            )
        if footer.num_rows:
            files.append(FileSpec(path=f"{split}/{path.rpartition('/')[2]}", rows=footer.num_rows))
    return files


def count_rows(directory: str) -> int:
    """Rows in the Parquet files of a directory, by their footers."""
    return sum(footer.num_rows for _, footer in _footers(directory))


def with_rates(spark: SparkSession, directory: str, fields: Sequence[FieldSpec]) -> list[FieldSpec]:
    """Measure on the written files, per split, the shares of missing and of unknown values."""
    rates = []
    for field in fields:
        if field.kind == "numeric":
            continue
        name = F.col(field.name)
        ids = name if field.kind == "multi_valued" else F.array(name)
        values = F.size(F.filter(ids, lambda i: (i != PADDING) & (i != MISSING)))
        known = UNKNOWN if field.kind == "hashed" else field.first_known
        unknown = _count_unknown(ids, known)
        rates += [
            F.mean((F.element_at(ids, 1) == MISSING).cast("int")).alias(f"missing_{field.name}"),
            F.coalesce(F.try_divide(F.sum(unknown), F.sum(values)), F.lit(0.0)).alias(
                f"unknown_{field.name}"
            ),
        ]
    if not rates:
        return list(fields)
    found = {}
    for split in SPLITS:
        row = spark.read.parquet(f"{directory}/{split}").agg(*rates).head()
        assert row is not None
        found[split] = row.asDict()
    return [
        field
        if field.kind == "numeric"
        else field.model_copy(
            update={
                "missing_rate": {s: found[s][f"missing_{field.name}"] for s in SPLITS},
                "oov_rate": {s: found[s][f"unknown_{field.name}"] for s in SPLITS},
            }
        )
        for field in fields
    ]


def _count_unknown(ids: Column, known: int) -> Column:
    return F.size(F.filter(ids, lambda i: (i >= UNKNOWN) & (i < known)))


def _footers(directory: str) -> Iterator[tuple[str, pq.FileMetaData]]:
    fs, plain = storage.filesystem(directory)
    for path in sorted(fs.glob(f"{plain}/*.parquet")):
        with fs.open(path) as file:
            yield path, pq.read_metadata(file)
