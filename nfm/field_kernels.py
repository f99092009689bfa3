"""The compiled loops of ``nfm.field_lookup``, built like those of ``nfm.kernels``.

What the two have in common around the loop over occurrences is spelled out in both: shared as
inlined functions it made a step slower.

Shapes: B = rows of the batch, S = slots, N = B * S, F = fields, D = K + 1, U = distinct ids,
X = rows of the table that the batch reads.
"""

import numpy as np
from numba import njit, prange

from nfm.kernels import first_of, row_of
from nfm.row_kernels import (
    ADAM,
    AHEAD,
    FAST,
    KEEP,
    MOMENTUM,
    PIECES,
    Array,
    prefetch_row,
    step_row,
)


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def read(weight_XD: Array, index_BS: Array, x_BS: Array, field_S: Array, fields_BFD: Array) -> None:
    """Per field, the sum of its rows times their x; writes the last argument."""
    rows, slots = index_BS.shape
    width = weight_XD.shape[1]
    index_N, last = index_BS.reshape(-1), index_BS.size - 1
    for b in prange(rows):
        fields_BFD[b] = 0
        for s in range(slots):
            prefetch_row(weight_XD, index_N[min(b * slots + s + AHEAD, last)])
            row, x, out = weight_XD[index_BS[b, s]], x_BS[b, s], fields_BFD[b, field_S[s]]
            for d in range(width):
                out[d] += x * row[d]


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def gradient(
    weight_XD: Array,
    index_U: Array,
    start: Array,
    positions_N: Array,
    x_BS: Array,
    field_S: Array,
    grad_BFD: Array,
    l1_D: Array,
    l2_D: Array,
    out_UD: Array,
    rule: int,
    first_XD: Array,
    second_XD: Array,
    constants: Array,
) -> None:
    """Gradient of the distinct rows: the sum over occurrences of x times that of the field.

    Penalties, ``rule`` and what follows it are as in ``nfm.kernels.pool_gradient``.
    """
    distinct, width = len(index_U), weight_XD.shape[1]
    slots, x_N = x_BS.shape[1], x_BS.reshape(-1)
    per_slot = 1 / slots
    for piece in prange(PIECES):
        grad = np.empty(width, weight_XD.dtype)
        for u in range(first_of(piece, start), first_of(piece + 1, start)):
            ahead = index_U[min(u + AHEAD, distinct - 1)]
            prefetch_row(weight_XD, ahead)
            if rule >= MOMENTUM:
                prefetch_row(first_XD, ahead)
                if rule == ADAM:
                    prefetch_row(second_XD, ahead)
            grad[:] = 0
            count = 0
            for j in range(start[u], start[u + 1]):
                at = positions_N[j]
                x = x_N[at]
                if x == 0:
                    continue
                count += 1
                b = row_of(at, per_slot)
                of_field = grad_BFD[b, field_S[at - b * slots]]
                for d in range(width):
                    grad[d] += x * of_field[d]
            row = weight_XD[index_U[u]]
            for d in range(width):
                grad[d] += count * (l2_D[d] * row[d] + l1_D[d] * np.sign(row[d]))
            if rule == KEEP:
                out_UD[u, :] = grad
            else:
                step_row(weight_XD, first_XD, second_XD, index_U[u], grad, rule, constants)
