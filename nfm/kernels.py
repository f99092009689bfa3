"""The compiled loops of a step on a CPU; ``nfm.lookup`` holds their plain twin in torch.

Each loop touches the rows of the batch's features and nothing else, straight in the table: neither
[B, S, K] nor a copy of the gathered rows is ever written. The gradient goes through the distinct
ids, each with its occurrences side by side, so that no two threads write one row and the sums do
not depend on the number of threads.

Shapes: B = rows of the batch, S = slots, N = B * S, K = factors, D = K + 1, U = distinct ids,
V = features.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, prange

Array = npt.NDArray[Any]

# Sums may be reordered into vector lanes; NaN must stay NaN, for the trainer looks for it.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_HASH = np.int64(-7046029254386353131)  # 2**64 / golden ratio: spreads consecutive ids
# Pieces of a loop over rows, more than threads: rows differ in their number of occurrences.
_CHUNKS = 64


@njit(nogil=True, cache=True)
def group_ids(ids_N: Array) -> tuple[Array, Array, Array]:
    """Find the distinct ids and where each occurs: O(N), whatever the number of features.

    Returns:
        ids [U] in order of first occurrence, start [U + 1], positions [N]: id u occurs at
        ``positions[start[u]:start[u + 1]]``, ascending.
    """
    size = ids_N.size
    bits = 1
    while (1 << bits) < 2 * size:
        bits += 1
    mask = (1 << bits) - 1
    keys = np.full(1 << bits, -1, np.int64)
    slot_of = np.empty(1 << bits, np.int32)
    ids = np.empty(size, np.int64)
    of_position = np.empty(size, np.int32)
    start = np.zeros(size + 1, np.int32)
    distinct = 0
    for i in range(size):
        key = ids_N[i]
        h = ((key * _HASH) >> np.int64(64 - bits)) & mask
        while keys[h] != key:
            if keys[h] == -1:
                keys[h] = key
                slot_of[h] = distinct
                ids[distinct] = key
                distinct += 1
                break
            h = (h + 1) & mask
        u = slot_of[h]
        of_position[i] = u
        start[u + 1] += 1
    for u in range(distinct):
        start[u + 1] += start[u]
    place = start[:distinct].copy()
    positions = np.empty(size, np.int32)
    for i in range(size):
        u = of_position[i]
        positions[place[u]] = i
        place[u] += 1
    return ids[:distinct].copy(), start[: distinct + 1].copy(), positions


@njit(parallel=True, fastmath=_FAST, cache=True)
def pool(
    weight_VD: Array, ids_BS: Array, x_BS: Array, sum_BK: Array, pooled_BK: Array, linear_B: Array
) -> None:
    """Bi-Interaction and the linear part of each row (He & Chua 2017, eq. 2-4), and sum_s x_s v_s.

    Writes the last three arguments.
    """
    rows, slots = ids_BS.shape
    factors = weight_VD.shape[1] - 1
    for b in prange(rows):
        total, square = sum_BK[b], pooled_BK[b]
        total[:] = 0
        square[:] = 0
        linear_B[b] = 0
        for s in range(slots):
            row, x = weight_VD[ids_BS[b, s]], x_BS[b, s]
            for k in range(factors):
                e = row[k] * x
                total[k] += e
                square[k] += e * e
            linear_B[b] += row[factors] * x
        for k in range(factors):
            square[k] = (total[k] * total[k] - square[k]) / 2


@njit(parallel=True, fastmath=_FAST, cache=True)
def pool_gradient(
    weight_VD: Array,
    ids_U: Array,
    start: Array,
    positions_N: Array,
    x_BS: Array,
    sum_BK: Array,
    grad_pooled_BK: Array,
    grad_linear_B: Array,
    l1_D: Array,
    l2_D: Array,
    out_UD: Array,
) -> None:
    """Gradient of the distinct rows, penalties included; writes ``out_UD``.

    With g the gradient of a row's pooled vector and s its sum of x v, feature i receives
    ``sum over its occurrences of x g (s - x v_i)``, here ``sum x g s - v_i sum x^2 g``.
    """
    distinct, width = out_UD.shape
    factors, slots = width - 1, x_BS.shape[1]
    x_N = x_BS.reshape(-1)
    grad_sum_BK = grad_pooled_BK * sum_BK
    penalised = np.any(l1_D != 0) or np.any(l2_D != 0)
    for chunk in prange(_CHUNKS):
        squares = np.empty(factors, weight_VD.dtype)
        for u in range(chunk * distinct // _CHUNKS, (chunk + 1) * distinct // _CHUNKS):
            row, grad = weight_VD[ids_U[u]], out_UD[u]
            grad[:] = 0
            squares[:] = 0
            count = 0
            for j in range(start[u], start[u + 1]):
                x = x_N[positions_N[j]]
                if x == 0:
                    continue
                count += 1
                b = positions_N[j] // slots
                g, gs = grad_pooled_BK[b], grad_sum_BK[b]
                for k in range(factors):
                    grad[k] += x * gs[k]
                    squares[k] += x * x * g[k]
                grad[factors] += x * grad_linear_B[b]
            for k in range(factors):
                grad[k] -= row[k] * squares[k]
            if penalised:  # else it would cost as much as all the rest
                for d in range(width):
                    grad[d] += count * (l2_D[d] * row[d] + l1_D[d] * np.sign(row[d]))


@njit(parallel=True, fastmath=_FAST, cache=True)
def adagrad_rows(
    weight_VD: Array, sum_VD: Array, ids_U: Array, grad_UD: Array, rate: Any, eps: Any
) -> None:
    """One Adagrad step of these distinct rows, in place (see ``nfm.table.RowAdagrad``)."""
    for u in prange(len(ids_U)):
        row, total, grad = weight_VD[ids_U[u]], sum_VD[ids_U[u]], grad_UD[u]
        for d in range(len(row)):
            total[d] += grad[d] * grad[d]
            row[d] -= rate * grad[d] / (np.sqrt(total[d]) + eps)


@njit(parallel=True, fastmath=_FAST, cache=True)
def adam_rows(
    weight_VD: Array,
    mean_VD: Array,
    square_VD: Array,
    ids_U: Array,
    grad_UD: Array,
    rate: Any,
    beta1: Any,
    beta2: Any,
    correction2: Any,
    eps: Any,
) -> None:
    """One lazy Adam step of these distinct rows, in place (see ``nfm.table.RowAdam``).

    ``rate`` carries the correction of the first moment, ``correction2`` is that of the second.
    """
    one = beta1 / beta1
    for u in prange(len(ids_U)):
        row, grad = weight_VD[ids_U[u]], grad_UD[u]
        mean, square = mean_VD[ids_U[u]], square_VD[ids_U[u]]
        for d in range(len(row)):
            mean[d] = beta1 * mean[d] + (one - beta1) * grad[d]
            square[d] = beta2 * square[d] + (one - beta2) * grad[d] * grad[d]
            row[d] -= rate * mean[d] / (np.sqrt(square[d] / correction2) + eps)
