"""The raw tables of ``make bench-features``: a row id, string columns and a label."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.workload import EXPONENT, Array

CARDINALITIES = (10, 50, 200, 1_000, 5_000, 20_000, 100_000, 500_000)
RATINGS = 100_000
_RAW = Path("build/demo/raw/ratings")
MOVIELENS = [
    *("user_id", "item_id", "timestamp", "zip_code"),
    *("release_year", "age", "occupation", "gender"),
]
FILES = 8


def generated(cardinalities: Sequence[int] = CARDINALITIES) -> list[str]:
    """Names of the columns of ``skewed``."""
    return [f"c{number}" for number in range(len(cardinalities))]


def skewed(folder: Path, rows: int, cardinalities: Sequence[int] = CARDINALITIES) -> Path:
    """Columns of so many values, drawn from a Zipf law; labels are coin flips."""
    values, chances = [], []
    names = generated(cardinalities)
    for column, size in zip(names, cardinalities, strict=True):
        # Scattered as ids of users are: neither sorted by count nor dense.
        values.append(pa.array([f"{column}_{k * 2654435761 % 2**32:08x}" for k in range(size)]))
        weights = np.arange(1, size + 1) ** -EXPONENT
        chances.append(np.cumsum(weights) / weights.sum())

    def part(number: int, ids: Array) -> pa.Table:
        rng, columns = np.random.default_rng(number), {"row": pa.array(ids)}
        for column, words, cdf in zip(names, values, chances, strict=True):
            ranks = np.searchsorted(cdf, rng.random(len(ids)))
            columns[column] = words.take(pa.array(np.minimum(ranks, len(words) - 1)))
        labels = (rng.random(len(ids)) < 0.3).astype(np.int32)
        return pa.table(columns | {"label": labels})

    parts = np.split(np.arange(rows), FILES)
    return _write(folder, (part(number, ids) for number, ids in enumerate(parts)))


def movielens(folder: Path, times: int) -> Path:
    """Columns of ``make data`` as strings, each row ``times`` times with ids of its own."""
    ratings = pq.read_table(_RAW)
    texts = {column: pc.cast(ratings[column], pa.string()) for column in MOVIELENS}
    labels = pc.cast(pc.greater_equal(ratings["rating"], 4), pa.int32())
    once = pa.table(texts | {"label": labels})
    whole = pa.concat_tables([once] * times).combine_chunks()

    def part(ids: Array) -> pa.Table:
        return whole.slice(ids[0], len(ids)).append_column("row", pa.array(ids))

    return _write(folder, map(part, np.split(np.arange(len(whole)), FILES)))


def distinct(folder: Path, rows: int, values: int) -> Path:
    """One column of so many values, all equally frequent, in random order."""
    order = np.random.default_rng(0).permutation(rows)

    def part(ids: Array) -> pa.Table:
        column = pc.cast(pa.array(ids % values), pa.string())
        return pa.table({"row": ids, "value": column, "label": (ids // 7 % 2).astype(np.int32)})

    return _write(folder, map(part, np.split(order, FILES)))


def _write(folder: Path, parts: Iterable[pa.Table]) -> Path:
    """Write the files of a table, unless it is there."""
    if not folder.exists():
        staged = folder.with_name(f".{folder.name}")
        staged.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(parts):
            pq.write_table(part, staged / f"part-{number}.parquet")
        staged.rename(folder)
    return folder
