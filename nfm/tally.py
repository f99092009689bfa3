"""Predicted rows, counted: what all metrics are computed from.

Rows that agree in output, label and the ids they are grouped by are one entry with a count. Tallies
of any parts of the rows merge into that of all of them, to the bit: entries are in a fixed order,
and metrics sum over them. It holds at most one entry per row.

Shapes: B = rows of a batch, N = entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conf.manifest import FieldSpec
from nfm.batch import Batch, FloatArray, IntArray
from nfm.collectives import Collectives

_ROWS_APART = 1 << 20  # counted one by one before they are merged


@dataclass(frozen=True)
class Tally:
    """Distinct rows and how often each occurs, by output, then label, then ids, ascending.

    Attributes:
        output_N: What the model put out, float32.
        label_N: float32.
        ids: Per field that rows are grouped by, their local ids: int32 [N]. Of a number, the
            bits of x as float32.
        count_N: int64.
    """

    output_N: FloatArray
    label_N: FloatArray
    ids: Mapping[str, IntArray]
    count_N: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        outputs: npt.ArrayLike,
        labels: npt.ArrayLike,
        ids: Mapping[str, npt.ArrayLike] | None = None,
    ) -> "Tally":
        """Count rows.

        Args:
            outputs: [n], rounded to float32.
            labels: [n].
            ids: Per field, local ids [n].
        """
        return merge([_uncounted(outputs, labels, ids or {})])

    @property
    def rows(self) -> int:
        """Rows that were counted."""
        return int(self.count_N.sum())

    def gathered(self, workers: Collectives) -> "Tally":
        """The tally of all workers' rows, on each of them; all workers call it."""
        if workers.size == 1:
            return self
        columns = [self.output_N.view(np.int32), self.label_N.view(np.int32), *self.ids.values()]
        packed = np.column_stack([*columns, self.count_N.view(np.int32).reshape(-1, 2)])
        rows = workers.gather(torch.from_numpy(packed), "tally").numpy()
        output, label, *ids = (np.ascontiguousarray(column) for column in rows.T[:-2])
        count = np.ascontiguousarray(rows[:, -2:]).view(np.int64)[:, 0]
        names = dict(zip(self.ids, ids, strict=True))
        return merge([Tally(output.view(np.float32), label.view(np.float32), names, count)])


def merge(tallies: Sequence[Tally]) -> Tally:
    """The tally of all rows of at least one tally."""
    columns = [
        np.concatenate([tally.output_N for tally in tallies]),
        np.concatenate([tally.label_N for tally in tallies]),
        *(np.concatenate([tally.ids[name] for tally in tallies]) for name in tallies[0].ids),
    ]
    count = np.concatenate([tally.count_N for tally in tallies])
    order = np.lexsort(columns[::-1])
    columns = [column[order] for column in columns]
    starts = starts_of(*columns)
    output, label, *ids = (column[starts] for column in columns)
    names = dict(zip(tallies[0].ids, ids, strict=True))
    return Tally(output, label, names, sums(count[order], starts))


class Tallier:
    """Counts the rows of a split as they are predicted.

    Args:
        fields: The manifest's.
        names: Of those that rows are grouped by; each has one value per row.
    """

    def __init__(self, fields: Sequence[FieldSpec], names: Sequence[str]) -> None:
        starts = np.cumsum([0, *(field.length for field in fields)]).tolist()
        places = {field.name: (slot, field) for field, slot in zip(fields, starts, strict=False)}
        self._places = {name: places[name] for name in names}
        self._merged = Tally.of([], [], {name: [] for name in names})
        self._apart: list[Tally] = []
        self._rows_apart = 0

    def add(self, output_B: torch.Tensor, batch: Batch) -> None:
        """Count a batch by the model's outputs."""
        ids = {
            name: (batch.x_BS[:, slot].numpy() + np.float32(0)).view(np.int32)  # -0 becomes 0
            if field.kind == "numeric"
            else batch.ids_BS[:, slot].numpy() - field.offset
            for name, (slot, field) in self._places.items()
        }
        self._count(output_B.numpy(), batch.label_B.numpy(), ids)

    def _count(
        self, output_B: FloatArray, label_B: FloatArray, ids: Mapping[str, npt.ArrayLike]
    ) -> None:
        self._apart.append(_uncounted(output_B, label_B, ids))
        self._rows_apart += len(output_B)
        # As many as are merged: so an entry is sorted again a few times, however many rows come.
        if self._rows_apart >= max(_ROWS_APART, len(self._merged.count_N)):
            self.tally()

    def tally(self) -> Tally:
        """All rows so far."""
        self._merged = merge([self._merged, *self._apart])
        self._apart, self._rows_apart = [], 0
        return self._merged


class ListTallier(Tallier):
    """Counts a row once for each value that it holds of a list.

    Args:
        fields: The manifest's.
        name: Of the field whose values are lists.
    """

    def __init__(self, fields: Sequence[FieldSpec], name: str) -> None:
        super().__init__(fields, [name])
        slot, field = self._places[name]
        self._name, self._offset, self._slots = name, field.offset, slice(slot, slot + field.length)

    def add(self, output_B: torch.Tensor, batch: Batch) -> None:
        """Count a batch by the model's outputs."""
        row, place = np.nonzero(batch.x_BS[:, self._slots].numpy())
        ids = batch.ids_BS[:, self._slots].numpy()[row, place] - self._offset
        row, ids = np.unique(np.column_stack([row, ids]), axis=0).T
        self._count(output_B.numpy()[row], batch.label_B.numpy()[row], {self._name: ids})


def starts_of(*columns: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Where, in sorted columns, runs of equal entries start."""
    changes = np.zeros(len(columns[0]), bool)
    changes[:1] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)


def sums(values: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Sums of runs; of no values there are none."""
    found: npt.NDArray[Any] = np.add.reduceat(values, starts) if len(starts) else values
    return found


def _uncounted(
    outputs: npt.ArrayLike, labels: npt.ArrayLike, ids: Mapping[str, npt.ArrayLike]
) -> Tally:
    output = np.asarray(outputs, np.float32) + np.float32(0)  # -0 becomes 0
    return Tally(
        output,
        np.asarray(labels, np.float32),
        {name: np.asarray(column, np.int32) for name, column in ids.items()},
        np.ones(len(output), np.int64),
    )
