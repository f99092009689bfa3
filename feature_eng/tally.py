"""What Spark's Python workers count of canonical rows on their way into the chunks."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.fields import LABEL, WEIGHT
from conf.manifest import FieldSpec
from conf.schema import SPLITS
from feature_eng.raw import SPLIT

Array = npt.NDArray[Any]


class Moments(NamedTuple):
    """Of some numbers.

    Attributes:
        size: How many.
        mean: Their mean; 0 of none.
        squares: The sum of the squares of their distances from it.
        least: Infinite of none.
        greatest: Minus infinity of none.
    """

    size: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    @classmethod
    def of(cls, numbers: Array) -> "Moments":
        """Those of numbers [n], none of which is NaN."""
        if not len(numbers):
            return cls()
        mean = float(numbers.mean())
        squares = float(np.square(numbers - mean).sum())
        return cls(len(numbers), mean, squares, float(numbers.min()), float(numbers.max()))

    def merged(self, other: "Moments") -> "Moments":
        """Those of both (Chan, Golub and LeVeque 1983)."""
        if not self.size or not other.size:
            return self if self.size else other
        size, apart = self.size + other.size, other.mean - self.mean
        return Moments(
            size,
            self.mean + apart * (other.size / size),
            self.squares + other.squares + apart**2 * (self.size * other.size / size),
            min(self.least, other.least),
            max(self.greatest, other.greatest),
        )


class Tally(NamedTuple):
    """Counts, and by column the moments of the numbers of training rows.

    Attributes:
        counts: ``rows``; ``no_split``; ``not_binary``, labels that are neither 0 nor 1; ``null:C``
            and ``negative:C`` of label and weight; and by split ``rows:S``, ``positives:S``, labels
            that are 1, ``missing:S:F`` of numeric fields and ``truncated:S:F`` of lists.
        moments: Of label, weight, and numeric and bucketised fields.
    """

    counts: Counter[str]
    moments: dict[str, Moments]

    @classmethod
    def of(cls, rows: pa.Table, fields: Sequence[FieldSpec]) -> "Tally":
        """Count canonical rows."""
        split, label = rows[SPLIT].to_numpy(), rows[LABEL].to_numpy()
        counts = Counter({"rows": len(rows), "no_split": _count(split < 0)})
        counts["not_binary"] = _count((label != 0) & (label != 1) & ~np.isnan(label))
        by_split = {"rows:{}": np.full(len(rows), True), "positives:{}": label == 1}
        numbers = {}
        for name in (LABEL, WEIGHT):
            if name in rows.column_names:
                numbers[name] = values = rows[name].to_numpy()
                counts[f"null:{name}"] = _count(np.isnan(values))
                counts[f"negative:{name}"] = _count(values < 0)
        for field in fields:
            if field.kind == "multi_valued":
                lengths = pc.list_value_length(rows[field.name]).fill_null(0).to_numpy()
                by_split[f"truncated:{{}}:{field.name}"] = lengths > field.length
            elif field.kind in ("numeric", "bucketised"):
                numbers[field.name] = values = rows[field.name].to_numpy()
                if field.kind == "numeric":
                    by_split[f"missing:{{}}:{field.name}"] = np.isnan(values)
        for key, which in by_split.items():
            for code, name in enumerate(SPLITS):
                counts[key.format(name)] = _count(which & (split == code))
        trains = split == 0
        return cls(
            counts,
            {
                name: Moments.of(values[trains & ~np.isnan(values)].astype(np.float64))
                for name, values in numbers.items()
            },
        )

    @classmethod
    def total(cls, tallies: Iterable["Tally"]) -> "Tally":
        """Those of all rows."""
        counts: Counter[str] = Counter()
        moments: dict[str, Moments] = {}
        for tally in tallies:
            counts += tally.counts
            for name, found in tally.moments.items():
                moments[name] = moments.get(name, Moments()).merged(found)
        return cls(counts, moments)

    def to_json(self) -> str:
        """As text, for the way to the driver."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> "Tally":
        """What ``to_json`` made."""
        counts, moments = json.loads(text)
        return cls(Counter(counts), {name: Moments(*found) for name, found in moments.items()})


def _count(which: Array) -> int:
    return int(np.count_nonzero(which))
