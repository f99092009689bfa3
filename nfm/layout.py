"""Encoded rows, packed one after the other, and batches out of any of them.

A block of rows waits here to be read in a random order. A packed row holds the local ids, numbers
(by their bits), label and, where rows have one, weight side by side, 4 bytes each, so that fetching
one costs two or three cache lines, whatever the number of fields; offsets and the values x are
added only on the way into a batch. Both loops run outside the interpreter's lock, on one thread.

Shapes: R = packed rows, B = rows of a batch, S = slots (see ``nfm.batch``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from conf.fields import LABEL, WEIGHT
from conf.manifest import FieldSpec
from nfm import memory
from nfm.batch import FloatArray, IntArray, list_weights, num_slots
from nfm.kernels import merge_repeats
from nfm.row_kernels import prefetch_row

Array = npt.NDArray[Any]

_TILE = 16  # rows: a tile of a few dozen columns stays in the first-level cache
_AHEAD = 8  # rows asked of memory before their turn; measured, 4 to 16 are alike


class Layout:
    """Where the values of each field lie in a packed row.

    Args:
        fields: The manifest's fields, in their order.
        weighted: Whether rows have weights.

    Attributes:
        slots: S.
        fields: The fields by name.
        loss_columns: What the loss takes of a row beside them: the label, and the weight.
    """

    def __init__(self, fields: Sequence[FieldSpec], *, weighted: bool = False) -> None:
        self.slots = num_slots(fields)
        self.fields = {field.name: field for field in fields}
        self.loss_columns = [LABEL, WEIGHT] if weighted else [LABEL]
        starts = np.cumsum([0, *(field.length for field in fields)])
        self._start = dict(zip(self.fields, starts.tolist(), strict=False))
        self._lists = [field for field in fields if field.kind == "multi_valued"]
        singles = [field.name for field in fields if field.kind != "multi_valued"]
        self._singles = singles + self.loss_columns
        behind = range(self.slots, self.slots + len(self.loss_columns))
        self._single_slots = np.array([*(self._start[name] for name in singles), *behind])
        # ids = (packed & id_mask) + offset; x's bits = (packed & x_mask) | x_bits.
        numeric_S = np.repeat([f.kind == "numeric" for f in fields], [f.length for f in fields])
        self._id_mask_S = np.where(numeric_S, 0, -1).astype(np.int32)
        self._offset_S = np.repeat(
            np.array([f.offset for f in fields], np.int32), [f.length for f in fields]
        )
        self._x_mask_S = ~self._id_mask_S
        self._x_bits_S = np.where(numeric_S, np.float32(0), np.float32(1)).astype(np.float32)
        spans = [(self._start[f.name], self._start[f.name] + f.length) for f in self._lists]
        self._list_spans = np.array(spans, np.int32).reshape(-1, 2)
        longest = max((field.length for field in self._lists), default=0)
        self._weights = np.zeros((len(spans), longest + 1), np.float32)  # by list, by values in it
        for weights, field in zip(self._weights, self._lists, strict=True):
            weights[: field.length + 1] = list_weights(field)

    def room(self, rows: int) -> IntArray:
        """Room for packed rows: int32 [rows, S + 1], or S + 2 with weights."""
        width = self.slots + len(self.loss_columns)
        room: IntArray = memory.zeros((rows, width), torch.int32).numpy()
        return room

    def pack(self, columns: Mapping[str, Array], packed_RS: IntArray) -> None:
        """Write encoded columns into packed rows.

        Args:
            columns: Per field and loss column: int32 [R], float32 [R] (numeric, label, weight) or
                int32 [R, length] (multi-valued).
            packed_RS: Room for as many rows.
        """
        singles = [np.ascontiguousarray(columns[name]) for name in self._singles]
        # The loop below sees addresses alone.
        assert all(c.shape == packed_RS.shape[:1] and c.itemsize == 4 for c in singles)
        _transpose(
            np.array([column.ctypes.data for column in singles]), self._single_slots, packed_RS
        )
        for field in self._lists:
            start = self._start[field.name]
            packed_RS[:, start : start + field.length] = columns[field.name]

    def unpack(
        self,
        packed_RS: IntArray,
        order_B: Array,
        ids_BS: IntArray,
        x_BS: FloatArray,
        label_B: FloatArray,
        weight_B: FloatArray | None = None,
    ) -> None:
        """Write some of the packed rows, in any order, into a batch (see ``nfm.batch.assemble``).

        Args:
            packed_RS: Packed rows.
            order_B: Which of them.
            ids_BS: Receives the global ids.
            x_BS: Receives the values.
            label_B: Receives the targets.
            weight_B: Receives the weights, where rows have them.
        """
        _unpack(
            packed_RS,
            order_B,
            self._id_mask_S,
            self._offset_S,
            self._x_mask_S,
            self._x_bits_S.view(np.int32),
            self._list_spans,
            self._weights,
            ids_BS,
            x_BS,
            x_BS.view(np.int32),
            label_B.view(np.int32),
            None if weight_B is None else weight_B.view(np.int32),
        )


def _pointer(typing_context: Any, address: Any) -> Any:
    """A pointer to int32 out of an address.

    A list of arrays is nothing numba takes, unless each number of columns is compiled for itself.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int32)(address), generate


_int32_at: Any = intrinsic(_pointer)


@njit(nogil=True, cache=True)
def _transpose(addresses: Array, slots: Array, packed_RS: Array) -> None:
    """Columns of 4-byte values, by their addresses, into rows; in tiles that stay in the cache."""
    rows = len(packed_RS)
    for first in range(0, rows, _TILE):
        for i in range(len(addresses)):
            column, slot = carray(_int32_at(addresses[i]), rows), slots[i]
            for row in range(first, min(first + _TILE, rows)):
                packed_RS[row, slot] = column[row]


@njit(nogil=True, cache=True)
def _unpack(
    packed_RS: Array,
    order_B: Array,
    id_mask_S: Array,
    offset_S: Array,
    x_mask_S: Array,
    x_bits_S: Array,
    list_spans: Array,
    weights: Array,
    ids_BS: Array,
    x_BS: Array,
    x_as_bits_BS: Array,
    label_bits_B: Array,
    weight_bits_B: Array | None,
) -> None:
    """See ``Layout.unpack``; ``x_as_bits_BS`` is ``x_BS`` by its bits.

    Compiled once for rows with weights and once for rows without, which pay nothing for them.
    """
    slots = ids_BS.shape[1]
    for b in range(len(order_B)):
        if b + _AHEAD < len(order_B):
            prefetch_row(packed_RS, order_B[b + _AHEAD])
        row = packed_RS[order_B[b]]
        for s in range(slots):  # no branch: several slots at once
            ids_BS[b, s] = (row[s] & id_mask_S[s]) + offset_S[s]
            x_as_bits_BS[b, s] = (row[s] & x_mask_S[s]) | x_bits_S[s]
        for i in range(len(list_spans)):
            start, end = list_spans[i]
            present = 0
            for s in range(start, end):
                present += row[s] >= 0
            for s in range(start, end):
                if row[s] >= 0:
                    x_BS[b, s] = weights[i, present]
                else:  # padding
                    ids_BS[b, s] = offset_S[s]
                    x_BS[b, s] = 0
        label_bits_B[b] = row[slots]
        if weight_bits_B is not None:
            weight_bits_B[b] = row[slots + 1]
    for i in range(len(list_spans)):
        start, end = list_spans[i]
        merge_repeats(ids_BS, x_BS, start, end, offset_S[start])
