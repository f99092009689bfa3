"""From encoded columns to the two matrices a model reads.

Shapes: B = rows of a batch, S = slots, one per value a row can hold (a multi-valued field has
``length`` of them, every other field one), N = B * S, U = distinct ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conf.manifest import PADDING, FieldSpec
from nfm import kernels

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Groups:
    """The distinct ids of a batch, and where each occurs in the flattened ids [N].

    Attributes:
        ids_U: Those of an owner together, in order of first occurrence.
        start: Bounds [U + 1]: id u occurs at ``positions_N[start[u]:start[u + 1]]``, ascending.
        positions_N: Indices into the flattened ids.
        inverse_N: Per position, the u of its id.
    """

    ids_U: torch.Tensor
    start: torch.Tensor
    positions_N: torch.Tensor
    inverse_N: torch.Tensor


def group(ids: torch.Tensor, owners: int = 1) -> Groups:
    """Find the distinct values of int32 ids of any shape; the result lies where the ids do.

    Args:
        ids: Where to look.
        owners: Who owns id i is i % owners (see ``nfm.table``).
    """
    found = kernels.group_ids(ids.cpu().numpy().reshape(-1), owners)
    return Groups(*(torch.from_numpy(array).to(ids.device) for array in found))


@dataclass(frozen=True)
class Batch:
    """Rows ready for a step.

    Attributes:
        ids_BS: Global one-hot indices, int32.
        x_BS: Values of those features; 0 where a slot is empty.
        label_B: Targets.
        weight_B: Weights of the rows in the loss; None where each is 1.
        files_of: Tells which file each row came from, as paths [B]; for error messages.
        owners: Workers that the table's rows are dealt out to.
    """

    ids_BS: torch.Tensor
    x_BS: torch.Tensor
    label_B: torch.Tensor
    weight_B: torch.Tensor | None = None
    files_of: Callable[[], list[str]] | None = None
    owners: int = 1

    def __len__(self) -> int:
        return len(self.label_B)

    @cached_property
    def groups(self) -> Groups:
        """The distinct ids, found at the first use: the stream's thread does it ahead of a step."""
        return group(self.ids_BS, self.owners)

    def owned_by(self, owners: int) -> "Batch":
        """The batch for a table whose rows are dealt out to so many workers."""
        return self if owners == self.owners else replace(self, owners=owners)

    def to(self, device: torch.device) -> "Batch":
        """The batch in a GPU's memory, copied while the host goes on.

        Of distinct ids that were found, what plain torch reads of them goes along.
        """
        if device.type == "cpu":
            return self

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        moved = replace(
            self,
            ids_BS=move(self.ids_BS),
            x_BS=move(self.x_BS),
            label_B=move(self.label_B),
            weight_B=None if self.weight_B is None else move(self.weight_B),
        )
        if "groups" in self.__dict__:  # a prediction from a whole table needs none
            # The rest is for the compiled loops.
            groups, ids_U, inverse_N = self.groups, self.groups.ids_U, self.groups.inverse_N
            moved.__dict__["groups"] = replace(groups, ids_U=move(ids_U), inverse_N=move(inverse_N))
        return moved

    @classmethod
    def empty(cls, num_slots: int) -> "Batch":
        """A batch without rows, for a worker whose files have run out."""
        return cls(
            torch.zeros(0, num_slots, dtype=torch.int32), torch.zeros(0, num_slots), torch.zeros(0)
        )


def num_slots(fields: Sequence[FieldSpec]) -> int:
    """Slots that a row of these fields takes."""
    return sum(field.length for field in fields)


def field_of_slots(fields: Sequence[FieldSpec]) -> torch.Tensor:
    """The number of the field that each slot belongs to: int32 [S]."""
    lengths = torch.tensor([field.length for field in fields])
    return torch.arange(len(fields), dtype=torch.int32).repeat_interleave(lengths)


def list_weights(field: FieldSpec) -> FloatArray:
    """X of each value of a list, by how many there are: [length + 1].

    1/n (Rendle 2010, sec. V), 1/sqrt(n) (Koren 2008, SVD++), or 1.
    """
    power = {"one": 0.0, "sqrt": 0.5, "mean": 1.0}[field.weighting]
    counts = np.arange(1, field.length + 1, dtype=np.float64)
    return np.concatenate([[0.0], counts**-power]).astype(np.float32)


def assemble(columns: Columns, fields: Sequence[FieldSpec]) -> tuple[IntArray, FloatArray]:
    """Lay encoded columns side by side and add each field's offset.

    Args:
        columns: Per field: int [n], float [n] (numeric) or int [n, length] (multi-valued).
        fields: The manifest's fields, in their order.

    Returns:
        ids [n, S] int32 and x [n, S] float32. A numeric field has x = its value; the values of a
        multi-valued field have x by its weighting, one that comes twice the sum in its first slot,
        padding x = 0; else x = 1.
    """
    rows = len(columns[fields[0].name])
    ids = np.empty((rows, num_slots(fields)), dtype=np.int32)
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
            x[:, here] = present * list_weights(field)[present.sum(axis=1)][:, np.newaxis]
            kernels.merge_repeats(ids, x, here.start, here.stop, field.offset)
        else:
            np.add(column, field.offset, out=ids[:, slot])
        slot += field.length
    return ids, x
