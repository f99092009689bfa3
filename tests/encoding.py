"""Canonical rows through the chunks, as a build and a scoring take them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.fields import LABEL
from conf.manifest import FieldSpec, Manifest
from feature_eng.chunks import Packed, pack
from feature_eng.encode import encoded_chunks, local_ids
from feature_eng.raw import ORDER, SPLIT
from feature_eng.scored_files import ScoreWriter
from feature_eng.scoring import Encoder, kept_columns, scores_schema, write_indices
from feature_eng.shipped import Shipped
from feature_eng.split import TRAIN
from feature_eng.vocabulary import Vocabulary, read_vocabulary


def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Spark number all vocabularies, and look them up by joins that shuffle."""
    monkeypatch.setattr("feature_eng.indexing.WORKER_BYTES", -1)
    monkeypatch.setattr("feature_eng.encode.BROADCAST_BYTES", 0)


def dictionaries(rows: DataFrame, fields: Sequence[FieldSpec], directory: Path) -> DataFrame:
    """The dictionaries of rows that train, if no split is given."""
    return packed(rows, fields, directory).dictionaries(rows.sparkSession)


def packed(rows: DataFrame, fields: Sequence[FieldSpec], directory: Path) -> Packed:
    """The chunks of rows, in which columns that do not matter may be missing."""
    others = {
        LABEL: F.lit(0.0),
        SPLIT: F.lit(TRAIN),
        ORDER: F.lit(0).cast("bigint"),
    }
    for name, given in others.items():
        if name not in rows.columns:
            rows = rows.withColumn(name, given)
    return pack(rows, fields, str(directory))


def encode(
    rows: DataFrame, fields: Sequence[FieldSpec], vocabulary: Vocabulary, directory: Path
) -> list[dict[str, Any]]:
    """Rows whose fields are encoded, in no order; other columns stay."""
    chunks = packed(rows, fields, directory)
    batches = local_ids(chunks, vocabulary, fields).toArrow().to_batches()
    found = []
    for of_chunk, columns in encoded_chunks(batches, fields, chunks, {}):
        lists = {name: column.tolist() for name, column in columns.items()}
        for number, row in enumerate(of_chunk.to_pylist()):
            found.append(row | {name: values[number] for name, values in lists.items()})
    return found


def score_writer(
    features: str,
    manifest: Manifest,
    rows: DataFrame,
    scorer: Callable[[dict[str, Any]], dict[str, Any]],
    directory: Path,
    **others: Any,
) -> ScoreWriter:
    """Writes what stands for a model says of canonical rows into a new directory."""
    indices = directory.with_name(f"_{directory.name[:2]}")  # Spark does not look there
    directory.mkdir()
    indices.mkdir()
    vocabulary = read_vocabulary(rows.sparkSession, features)
    write_indices(vocabulary, manifest.fields, str(indices))
    return ScoreWriter(
        encode=Encoder(manifest.fields, Shipped(str(indices), shared=True)),
        fields=manifest.fields,
        load_scorer=lambda: scorer,
        schema=scores_schema(kept_columns(rows), explained=False),
        constants={"model_id": "model-1", "scored_at": datetime(2026, 1, 3, tzinfo=UTC)},
        directory=str(directory),
        prefix="part-run1",
        **others,
    )
