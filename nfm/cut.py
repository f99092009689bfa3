"""Batches out of packed blocks, in the shuffled order of their rows.

Shapes: see ``nfm.layout``.
"""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from conf.fields import WEIGHT
from nfm.batch import Batch, IntArray
from nfm.layout import Layout

Indices = npt.NDArray[np.int64]
# Files, where the rows of each end, and rows that were taken out of them.
_Origin = tuple[list[str], Indices, Indices]


@dataclass(frozen=True)
class PackedBlock:
    """The rows of a block, in the order of its files.

    Attributes:
        rows_RS: Packed by the layout.
        order: What is to be read of them, shuffled.
        files: Paths of its files.
        ends: Where the rows of each file end.
    """

    rows_RS: IntArray
    order: Indices
    files: list[str]
    ends: Indices


def cut_batches(
    blocks: Generator[PackedBlock, None, None],
    layout: Layout,
    *,
    batch_rows: int,
    rows: int,
    group_for: int | None,
) -> Generator[Batch, None, None]:
    """Cut the rows of all blocks, joined, into batches.

    Args:
        blocks: In their order; closed at the end.
        layout: What their rows were packed by.
        batch_rows: Rows of every batch but the last.
        rows: Rows to be read of all blocks.
        group_for: Workers for whose table the distinct ids of each batch are found, if they are.
    """
    draft = _Draft(layout, min(batch_rows, rows))
    with contextlib.closing(blocks):
        for packed in blocks:
            taken = 0
            while taken < len(packed.order):
                taken += draft.fill(packed, packed.order[taken:])
                if draft.room == 0:
                    batch = draft.batch(group_for or 1)
                    rows -= len(batch)
                    draft = _Draft(layout, min(batch_rows, rows))
                    if group_for:
                        _ = batch.groups  # found at the first use: here, ahead of the step
                    yield batch


class _Draft:
    """A batch in the making."""

    def __init__(self, layout: Layout, rows: int) -> None:
        self._layout = layout
        self._ids_BS = np.empty((rows, layout.slots), np.int32)
        self._x_BS = np.empty((rows, layout.slots), np.float32)
        self._label_B = np.empty(rows, np.float32)
        self._weight_B = np.empty(rows, np.float32) if WEIGHT in layout.loss_columns else None
        self._origins: list[_Origin] = []
        self.room = rows

    def fill(self, packed: PackedBlock, order: Indices) -> int:
        """Take as many of the rows as there is room for; returns how many."""
        rows = order[: self.room]
        start = len(self._label_B) - self.room
        here = slice(start, start + len(rows))
        self._layout.unpack(
            packed.rows_RS,
            rows,
            self._ids_BS[here],
            self._x_BS[here],
            self._label_B[here],
            None if self._weight_B is None else self._weight_B[here],
        )
        self._origins.append((packed.files, packed.ends, rows))
        self.room -= len(rows)
        return len(rows)

    def batch(self, owners: int) -> Batch:
        return Batch(
            torch.from_numpy(self._ids_BS),
            torch.from_numpy(self._x_BS),
            torch.from_numpy(self._label_B),
            None if self._weight_B is None else torch.from_numpy(self._weight_B),
            partial(_files_of, self._origins),
            owners,
        )


def _files_of(origins: list[_Origin]) -> list[str]:
    return [
        files[index]
        for files, ends, rows in origins
        for index in np.searchsorted(ends, rows, side="right")
    ]
