"""What the tasks of a build do on other stores, beside what they do on a disk."""

import dataclasses
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import LocalFileSystem
from pyspark.sql import SparkSession

from conf import storage
from conf.fields import LABEL, CategoricalField, FieldConfig, MultiValuedField
from conf.schema import SPLITS
from feature_eng.encode import local_ids
from feature_eng.fields import unfitted_specs
from feature_eng.indexing import index_fields
from feature_eng.parquet_texts import Texts, with_texts
from feature_eng.vocabulary import read_vocabulary
from feature_eng.write import SplitWriter
from tests.encoding import packed
from tests.stores import ObjectStore

FIELDS: list[FieldConfig] = [
    CategoricalField(name="word", kind="categorical"),
    MultiValuedField(name="tags", kind="multi_valued", max_length=3),
]
SCHEMA = "word string, tags array<string>, label double, _split int, _order bigint"
ROWS, NUM_FILES = 60, 40
NUMBERS = range(9), *(range(n, n + 1) for n in range(9, 30)), range(30, NUM_FILES)  # of tasks


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with ObjectStore.running(monkeypatch) as store:
        yield store


def test_texts_are_read_from_objects() -> None:
    words = pa.array(["a", None, "ü", "a", "b"] * 50)
    fs, path = storage.filesystem("s3a://lake/raw/day=1/part 0.parquet")
    with fs.open(path, "wb") as file:
        pq.write_table(pa.table({"word": words}), file, row_group_size=99)
    place = np.flatnonzero(np.arange(250) % 7)
    size = np.full(len(place), fs.size(path))
    rows = pa.record_batch([np.full(len(place), -1), size, place], ["_file", "_bytes", "_row"])
    texts = Texts({"text": "word"}, {-1: "s3a://lake/raw/day=1/part%200.parquet"})
    found = [text for read in with_texts([rows], texts) for text in read["text"].to_pylist()]
    assert found == words.take(pa.array(place)).to_pylist()


def test_rows_are_dealt_and_written_alike(spark: SparkSession, tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [
        (f"w{rng.randrange(30)}", list("abcd"[: n % 5]), float(n), n % 3, rng.getrandbits(63))
        for n in range(ROWS)
    ]
    table = spark.createDataFrame(rows, SCHEMA).repartition(3)
    chunks = packed(table, unfitted_specs(FIELDS), tmp_path / "chunks")
    indexed, known = index_fields(spark, chunks, FIELDS, None, str(tmp_path))
    specs = [
        spec.model_copy(update={"cardinality": 2 + known[spec.name].size})
        for spec in unfitted_specs(FIELDS)
    ]
    vocabulary = read_vocabulary(spark, str(tmp_path))
    ids = local_ids(chunks, vocabulary, specs, indexed).toArrow().to_batches()
    fsspec.register_implementation("hadoop", LikeHadoop, clobber=True)
    written_to = []
    for root in (str(tmp_path), "s3a://lake/v 1", f"hadoop://{tmp_path}/v 2"):
        if "://" in root:
            fs, place = storage.filesystem(f"{root}/chunks")
            fs.put(f"{tmp_path}/chunks/", f"{place}/", recursive=True)
        writer = SplitWriter(
            directory=root,
            packed=dataclasses.replace(chunks, directory=f"{root}/chunks"),
            indexed={name: path.replace(str(tmp_path), root) for name, path in indexed.items()},
            fields=specs,
            loss_columns=[LABEL],
            num_files=NUM_FILES,
            known_then=[spec.cardinality for spec in specs],
        )
        written_to.append(written(writer, ids))
    on_disk, in_s3, in_hadoop = written_to
    assert on_disk == in_s3 == in_hadoop
    labels = [row[LABEL] for file in on_disk.values() for row in file]
    assert sorted(labels) == list(range(ROWS)), "each row once"
    filled = {int(name.rpartition("-")[2]) for name in on_disk}
    assert any(not filled.intersection(numbers) for numbers in NUMBERS), "no task without rows"


class LikeHadoop(ArrowFSWrapper):
    """What fsspec has for ``hdfs://``, over the disk."""

    protocol = "hadoop"

    def __init__(self, **_: Any) -> None:
        super().__init__(LocalFileSystem())


def written(writer: SplitWriter, ids: list[pa.RecordBatch]) -> dict[str, Any]:
    """The rows of each file, by split and number."""
    for directory in (writer.dealt, *(f"{writer.directory}/{split}" for split in SPLITS)):
        storage.make_directory(directory)
    dealt = [name for task in writer.deal(ids) for name in task["name"].to_pylist()]
    files = {}
    tasks = [pa.record_batch([numbers], ["id"]) for numbers in NUMBERS]
    for task in itertools.chain(*(writer.write([numbers], dealt) for numbers in tasks)):
        (path,) = task["path"].to_pylist()
        fs, plain = storage.filesystem(f"{writer.directory}/{path}")
        with fs.open(plain, "rb") as file:
            files[path.rpartition("-")[0]] = pq.read_table(file).to_pylist()
    return files
