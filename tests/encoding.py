"""Canonical rows through the chunks, as a build and a scoring take them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.manifest import FieldSpec
from feature_eng.chunks import pack
from feature_eng.encode import encoded_chunks, local_ids
from feature_eng.raw import SPLIT
from feature_eng.vocabulary import Vocabulary


def dictionaries(rows: DataFrame, fields: Sequence[FieldSpec], directory: Path) -> DataFrame:
    """The dictionaries of rows that train, if no split is given."""
    if SPLIT not in rows.columns:
        rows = rows.withColumn(SPLIT, F.lit("train"))
    return pack(rows, fields, str(directory)).dictionaries(rows.sparkSession)


def encode(
    rows: DataFrame, fields: Sequence[FieldSpec], vocabulary: Vocabulary, directory: Path
) -> list[dict[str, Any]]:
    """Rows whose fields are encoded, in no order; other columns stay."""
    packed = pack(rows, fields, str(directory))
    batches = local_ids(packed, vocabulary, fields).toArrow().to_batches()
    found = []
    for packed, columns in encoded_chunks(batches, fields, str(directory)):
        lists = {name: column.tolist() for name, column in columns.items()}
        for number, row in enumerate(packed.to_pylist()):
            found.append(row | {name: values[number] for name, values in lists.items()})
    return found
