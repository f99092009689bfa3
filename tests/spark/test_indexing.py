"""Fields that one worker indexes, against the same ones by Spark's joins."""

import logging
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from conf.fields import CategoricalField, FieldConfig, MultiValuedField
from conf.manifest import Manifest
from feature_eng.base import Base
from feature_eng.chunks import Packed
from feature_eng.encode import encoded_chunks, local_ids
from feature_eng.fields import unfitted_specs
from feature_eng.indexing import index_fields
from feature_eng.vocabulary import Vocabulary, fit_vocabulary, read_vocabulary, write_vocabulary
from tests.encoding import packed

FIELDS: list[FieldConfig] = [
    CategoricalField(name="word", kind="categorical"),
    CategoricalField(name="few", kind="categorical", min_count=3, max_size=25),
    CategoricalField(name="none", kind="categorical"),
    CategoricalField(name="shared", kind="categorical", min_count=9, num_oov_buckets=3),
    MultiValuedField(name="tags", kind="multi_valued", max_length=2, min_count=2),
]
SPECS = unfitted_specs(FIELDS)
SCHEMA = (
    "row int, word string, few string, none string, shared string, tags array<string>, "
    "_day date, _split int"
)


def night(spark: SparkSession, number: int) -> DataFrame:
    """Words, some of them of characters that UTF-16 has in another order than UTF-8.

    Each night has new ones, and misses some of before.
    """
    rng = random.Random(number)

    def word() -> str | None:
        rank = int(rng.paretovariate(0.7)) % 60 + 9 * number
        if rng.random() < 0.1:
            return None
        return f"w{rank}" if rank % 3 else chr((0xFF00, 0x1F600)[rank % 2] + rank)

    rows: list[Any] = []
    for row in range(600):
        day = None if rng.random() < 0.2 else date(2026, number, 1) + timedelta(rng.randrange(9))
        tags = [word() for _ in range(rng.randrange(4))]
        split = rng.choice([0, 0, 2])
        rows.append((row, word(), word(), None, word(), [tag for tag in tags if tag], day, split))
    return spark.createDataFrame(rows, SCHEMA).repartition(3)


def encoded(chunks: Packed, vocabulary: Vocabulary, indexed: dict[str, str]) -> dict[int, Any]:
    """The ids of each row."""
    batches = local_ids(chunks, vocabulary, SPECS, indexed).toArrow().to_batches()
    found = {}
    for rows, columns in encoded_chunks(batches, SPECS, chunks, indexed):
        ids = zip(*(column.tolist() for column in columns.values()), strict=True)
        found |= dict(zip(rows["row"].to_pylist(), ids, strict=True))
    return found


def test_both_ways_number_alike_night_by_night(spark: SparkSession, tmp_path: Path) -> None:
    base: Base | None = None
    sizes: list[dict[str, int]] = []
    for number in (1, 2, 3):
        chunks = packed(night(spark, number), SPECS, tmp_path / f"chunks-{number}")
        assert len(chunks.chunks) == 3
        alone, joined = (str(tmp_path / f"{way}-{number}") for way in ("alone", "joined"))
        indexed, known = index_fields(spark, chunks, FIELDS, base, alone)
        assert indexed.keys() == {field.name for field in FIELDS}
        dictionaries = chunks.dictionaries(spark)
        write_vocabulary(
            fit_vocabulary(dictionaries, FIELDS, base.vocabulary if base else None), joined
        )
        one, other = read_vocabulary(spark, alone), read_vocabulary(spark, joined)
        assertDataFrameEqual(one.entries, other.entries)
        assert one.fingerprint == other.fingerprint
        assert {name: of for name, of in known.items() if of.size} == one.fields
        sizes.append(one.sizes)
        ids = encoded(chunks, one, indexed)
        assert ids == encoded(chunks, other, {})
        assert len(ids) == 600
        assert 1 in {row[0] for row in ids.values()}, "no unknown value"
        assert {1, 2, 3} <= {row[3] for row in ids.values()}, "not all ids of unknown values"
        base = Base(alone, Manifest.model_construct(), one)
    assert sizes[0]["few"] < sizes[1]["few"] == sizes[2]["few"] == 25, "full after the first night"
    assert sizes[0]["word"] < sizes[1]["word"] < sizes[2]["word"]


def test_what_is_large_is_left_to_spark(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "feature_eng.indexing")
    chunks = packed(night(spark, 1), SPECS, tmp_path / "chunks")
    sizes = chunks.entry_bytes
    largest, *small = sorted(sizes, key=lambda name: -sizes[name])
    limit = sizes[small[0]]
    assert sizes[largest] > limit > 0
    monkeypatch.setattr("feature_eng.indexing.WORKER_BYTES", 4 * limit)
    assert index_fields(spark, chunks, FIELDS, None, str(tmp_path))[0].keys() == set(small)
    assert f"one worker each: {', '.join(small)}" in caplog.text
    monkeypatch.setattr("feature_eng.indexing.WORKER_BYTES", -1)
    assert index_fields(spark, chunks, FIELDS, None, str(tmp_path)) == ({}, {})
    assert "one worker each: none" in caplog.text
    grown = Base(str(tmp_path), Manifest.model_construct(), read_vocabulary(spark, str(tmp_path)))
    # What the base has counts as well.
    monkeypatch.setattr("feature_eng.indexing.WORKER_BYTES", 4 * sizes["few"])
    assert index_fields(spark, chunks, FIELDS, grown, f"{tmp_path}/next")[0].keys() == {"none"}
