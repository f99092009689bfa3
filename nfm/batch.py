"""From encoded columns to the two matrices a model reads.

Shapes: B = rows of a batch, S = slots, one per value a row can hold (a multi-valued field has
``length`` of them, every other field one).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conf.manifest import PADDING, FieldSpec
from conf.schema import LABEL

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """Rows ready for a step.

    Attributes:
        ids_BS: Global one-hot indices, int64.
        x_BS: Values of those features; 0 where a slot is empty.
        label_B: Targets.
    """

    ids_BS: torch.Tensor
    x_BS: torch.Tensor
    label_B: torch.Tensor

    def __len__(self) -> int:
        return len(self.label_B)

    @classmethod
    def empty(cls, num_slots: int) -> "Batch":
        """A batch without rows, for a worker whose files have run out."""
        return cls(
            torch.zeros(0, num_slots, dtype=torch.int64), torch.zeros(0, num_slots), torch.zeros(0)
        )


def num_slots(fields: Sequence[FieldSpec]) -> int:
    """Slots that a row of these fields takes."""
    return sum(field.length for field in fields)


def assemble(columns: Columns, fields: Sequence[FieldSpec]) -> tuple[IntArray, FloatArray]:
    """Lay encoded columns side by side and add each field's offset.

    Args:
        columns: Per field: int [n], float [n] (numeric) or int [n, length] (multi-valued).
        fields: The manifest's fields, in their order.

    Returns:
        ids [n, S] int64 and x [n, S] float32. A numeric field has x = its value; each of the n
        values of a multi-valued field has x = 1/n (Rendle 2010, sec. V), padding x = 0; else x = 1.
    """
    rows = len(columns[fields[0].name])
    ids = np.empty((rows, num_slots(fields)), dtype=np.int64)
    x = np.ones((rows, num_slots(fields)), dtype=np.float32)
    slot = 0
    for field in fields:
        column = columns[field.name]
        here = slice(slot, slot + field.length)
        if field.kind == "numeric":
            ids[:, slot] = field.offset
            x[:, slot] = column
        elif field.kind == "multi_valued":
            present = column != PADDING
            np.add(column, field.offset, out=ids[:, here], where=present)
            ids[:, here][~present] = field.offset
            x[:, here] = present / present.sum(axis=1, keepdims=True)
        else:
            np.add(column, field.offset, out=ids[:, slot])
        slot += field.length
    return ids, x


def to_batch(ids: IntArray, x: FloatArray, label: FloatArray) -> Batch:
    """Wrap matrices as tensors, without a copy."""
    return Batch(torch.from_numpy(ids), torch.from_numpy(x), torch.from_numpy(label))


def label_of(columns: Columns) -> FloatArray:
    """The targets as float32 [n]."""
    return columns[LABEL].astype(np.float32, copy=False)
