"""What the rows of an evaluation are grouped by: the names of ids, and numbers cut into ranges."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from conf.manifest import MISSING, FieldSpec
from conf.vocabulary import value_ids
from nfm.tally import Tally, merge


def in_tenths(tally: Tally, field: FieldSpec) -> tuple[Tally, FieldSpec]:
    """Cut the rows along a number into ten ranges of as many rows each.

    Equal numbers stay together, so there may be fewer ranges, or uneven ones.

    Args:
        tally: At least one row, by the numbers of the field.
        field: A numeric one.

    Returns:
        The tally by the ids of ranges, and the field that has these: a bucketised one, its edges in
        the units of the raw column.
    """
    x_N = tally.ids[field.name].view(np.float32)
    order = np.argsort(x_N, kind="stable")
    upto_N = np.cumsum(tally.count_N[order])
    # Of every edge, the first number that a tenth, two tenths, ... of the rows lie before.
    places = np.searchsorted(10 * upto_N, tally.rows * np.arange(1, 10), side="right")
    edges = np.unique(x_N[order][places])
    edges = edges[edges > x_N[order[0]]]
    range_N = field.first_known + np.searchsorted(edges, x_N, side="right")
    ids = {**tally.ids, field.name: range_N.astype(np.int32)}
    raw = edges.astype(np.float64) * field.scale + field.shift
    raw = np.expm1(raw) if field.log1p else raw
    return (
        merge([replace(tally, ids=ids)]),
        field.model_copy(update={"kind": "bucketised", "edges": raw.tolist()}),
    )


def value_names(features: str, field: FieldSpec, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What the ids of a field stand for, in words.

    Args:
        features: Directory with the vocabulary.
        field: The field.
        ids: Local ids [n].

    Returns:
        Text [n]: values as the vocabulary has them, buckets as ``[from, to)``; ``missing``,
        ``unknown``, and ``bucket 7`` of a hash.
    """
    known: dict[int, str] = {}
    if field.has_vocabulary:
        table = value_ids(features, field.name)
        known = dict(zip(table["id"].to_pylist(), table["value"].to_pylist(), strict=True))
    elif field.kind == "bucketised":
        bounds = pairwise(["-inf", *_told_apart(field.edges), "inf"])
        known = {field.first_known + i: f"[{low}, {high})" for i, (low, high) in enumerate(bounds)}

    def name(number: int) -> str:
        if number == MISSING:
            return "missing"
        return known.get(number, "unknown" if field.has_vocabulary else f"bucket {number}")

    return np.array([name(number) for number in ids.tolist()], dtype=object)


def _told_apart(edges: Sequence[float]) -> list[str]:
    """Ascending numbers, in as few digits as tell them apart, but six at least."""
    for digits in range(6, 17):
        names = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(names)) == len(edges):
            break
    return names
