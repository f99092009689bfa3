"""The data that every contestant of ``make bench-train`` trains on.

Ids are drawn field by field from a Zipf law over the field's own number of values (p of the r-th
most frequent value ~ r**-exponent), and the r-th value has local id r - 1: our vocabularies are
ordered by count as well, so the frequent rows of a table lie together for everybody. Labels are
coin flips; no contestant's speed depends on them. Needs numpy alone: the peers' environment
imports it too.

Shapes: V = features, F = fields, B = rows of a batch, U = distinct ids of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Frappe (Baltrunas et al. 2015), the data of the NFM paper: user, item, daytime, weekday, weekend,
# homework, cost, weather, country, city. 5,382 features.
FRAPPE = (957, 4082, 7, 7, 2, 3, 2, 9, 80, 233)
# Criteo Kaggle 2014: values of its 26 categorical columns; its 13 numbers come in 50 buckets each.
_CRITEO_CATEGORICAL = """1460 583 10131227 2202608 305 24 12517 633 3 93145 5683 8351593 3194 27
14992 5461306 10 5652 2173 4 7046547 18 15 286181 105 142572"""
CRITEO = (*[50] * 13, *map(int, _CRITEO_CATEGORICAL.split()))

EXPONENT = 1.05
UNIFORM = 0.0


@dataclass(frozen=True)
class Shape:
    """The size of a problem.

    Attributes:
        name: As records and files call it.
        cardinalities: Values of each field.
        factors: K, the embedding dimension.
    """

    name: str
    cardinalities: tuple[int, ...]
    factors: int

    @property
    def features(self) -> int:
        """V: the size of the one-hot space."""
        return sum(self.cardinalities)

    @cached_property
    def offsets(self) -> Array:
        """The first global index of each field, int32 [F]."""
        return np.cumsum((0, *self.cardinalities[:-1])).astype(np.int32)

    def __str__(self) -> str:
        return f"F={len(self.cardinalities)}, V={self.features:,}, K={self.factors}"


def criteo(features: int) -> tuple[int, ...]:
    """Criteo's cardinalities, the largest cut to a common cap so that they add up to ``features``.

    That is what a vocabulary with a ``min_count`` does to them.
    """
    low, high = 1, max(CRITEO)
    while low < high:
        cap = (low + high + 1) // 2
        if sum(min(size, cap) for size in CRITEO) <= features:
            low = cap
        else:
            high = cap - 1
    sizes = [min(size, low) for size in CRITEO]
    sizes[CRITEO.index(max(CRITEO))] += features - sum(sizes)
    return tuple(sizes)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("frappe", FRAPPE, 64),
        Shape("criteo-100k", criteo(100_000), 16),
        Shape("criteo-1m", criteo(1_000_000), 16),
        Shape("criteo-10m", criteo(10_000_000), 16),
    )
}


@dataclass(frozen=True)
class Rows:
    """Rows in memory.

    Attributes:
        ids_BF: Local ids, int32.
        label_B: 0 or 1, float32.
    """

    ids_BF: Array
    label_B: Array

    def __len__(self) -> int:
        return len(self.label_B)


def generate(shape: Shape, rows: int, exponent: float = EXPONENT, seed: int = 0) -> Rows:
    """Draw rows; the same arguments give the same rows."""
    rng = np.random.default_rng(seed)
    ids = np.empty((rows, len(shape.cardinalities)), np.int32)
    for field, size in enumerate(shape.cardinalities):
        cumulative = np.cumsum(_probabilities(size, exponent))
        ids[:, field] = np.minimum(np.searchsorted(cumulative, rng.random(rows)), size - 1)
    return Rows(ids, rng.integers(0, 2, rows).astype(np.float32))


def cached(folder: Path, shape: Shape, rows: int, exponent: float = EXPONENT) -> Path:
    """Generate rows into a file of ``folder``, unless it is there; the file's path."""
    path = folder / f"{shape.name}-{rows}-{exponent:.4f}.npz"
    if not path.exists():
        drawn = generate(shape, rows, exponent)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{path.name}").open("wb") as file:
            np.savez(file, ids=drawn.ids_BF, label=drawn.label_B)
        Path(file.name).rename(path)
    return path


def load(path: Path) -> Rows:
    """Read what ``cached`` wrote."""
    with np.load(path) as file:
        return Rows(file["ids"], file["label"])


def distinct_ids(shape: Shape, ids_BF: Array) -> int:
    """U of a batch."""
    return len(np.unique(ids_BF + shape.offsets))


def expected_distinct(shape: Shape, batch: int, exponent: float) -> float:
    """The mean U over batches: the sum over all values of 1 - (1 - p)^B."""
    return sum(
        float(-np.expm1(batch * np.log1p(-_probabilities(size, exponent))).sum())
        for size in shape.cardinalities
    )


def matching_exponent(shape: Shape, batch: int, distinct: float) -> float:
    """The exponent that gives ``distinct`` ids a batch on average: more features, the same U."""
    low, high = 1.0, 2.0
    for _ in range(12):
        middle = (low + high) / 2
        if expected_distinct(shape, batch, middle) > distinct:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def batches(rows: Rows, batch: int) -> Sequence[slice]:
    """The full batches of some rows."""
    return [slice(start, start + batch) for start in range(0, len(rows) - batch + 1, batch)]


def _probabilities(size: int, exponent: float) -> Array:
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    shares: Array = weights / weights.sum()
    return shares
