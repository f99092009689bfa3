"""The compiled loops of a step on a CPU; ``nfm.lookup`` holds their plain twin in torch.

Each loop touches the rows of the batch's features and nothing else, straight in the table: neither
[B, S, K] nor a copy of the gathered rows is ever written. The gradient goes through the distinct
ids, each with its occurrences side by side, so that no two threads write one row and the sums do
not depend on the number of threads.

Shapes: B = rows of the batch, S = slots, N = B * S, K = factors, D = K + 1, U = distinct ids,
X = rows of the table that the batch reads (the whole table, or a copy of the distinct rows).
"""

from typing import Any

import numpy as np
from numba import njit, prange

from nfm.row_kernels import (
    ADAM,
    AHEAD,
    AHEAD_IN_BATCH,
    FAST,
    KEEP,
    MOMENTUM,
    PIECES,
    Array,
    prefetch_row,
    step_row,
)

_HASH = np.uint32(2654435769)  # 2**32 / golden ratio: spreads consecutive ids
# Fetching and stepping a row, in units of adding one occurrence to its gradient.
_ROW_WORK = 2


@njit(nogil=True, cache=True)
def _by_owner(ids_U: Array, owners: int) -> tuple[Array, Array]:
    """Ids, those of an owner together and else in their order, and where each came to lie."""
    next_of = np.zeros(owners + 1, np.int32)
    for u in range(len(ids_U)):
        next_of[ids_U[u] % owners + 1] += 1
    for owner in range(owners):
        next_of[owner + 1] += next_of[owner]
    ordered, place = np.empty_like(ids_U), np.empty_like(ids_U)
    for u in range(len(ids_U)):
        owner = ids_U[u] % owners
        place[u] = next_of[owner]
        ordered[place[u]] = ids_U[u]
        next_of[owner] += 1
    return ordered, place


@njit(nogil=True, cache=True)
def _hashed(ids_U: Array, bits: int) -> Array:
    """A hash table with room for 2**bits ids: of each the place among ``ids_U``, else -1."""
    shift, mask = np.uint32(32 - bits), np.uint32((1 << bits) - 1)
    table: Array = np.full(1 << bits, -1, np.int32)
    for u in range(len(ids_U)):
        h = np.uint32(np.uint32(ids_U[u]) * _HASH) >> shift
        while table[h] >= 0:
            h = np.uint32(h + np.uint32(1)) & mask
        table[h] = u
    return table


@njit(nogil=True, cache=True)
def _number(
    ids_N: Array, first: int, table: Array, ids: Array, distinct: int, inverse: Array, start: Array
) -> tuple[int, int]:
    """Number the ids from the ``first`` position on, until the hash table is half full.

    Writes ``table`` and the last arguments; returns how far it came, and the distinct ids so far.
    """
    bits = np.int64(np.log2(len(table)))
    shift, mask = np.uint32(32 - bits), np.uint32(len(table) - 1)
    for i in range(first, ids_N.size):
        key = ids_N[i]
        h = np.uint32(np.uint32(key) * _HASH) >> shift
        while True:
            u = table[h]
            if u < 0:
                if 2 * distinct == len(table):
                    return i, distinct
                u = np.int32(distinct)
                table[h] = u
                ids[u] = key
                distinct += 1
                break
            if ids[u] == key:
                break
            h = np.uint32(h + np.uint32(1)) & mask
        inverse[i] = u
        start[u + 1] += 1
    return ids_N.size, distinct


@njit(nogil=True, cache=True)
def group_ids(ids_N: Array, owners: int) -> tuple[Array, Array, Array, Array]:
    """Find the distinct ids and where each occurs: O(N), whatever the number of features.

    Those with the same ``id % owners`` lie together, in order of first occurrence.

    Returns:
        The arrays of ``nfm.batch.Groups``, int32.
    """
    size = ids_N.size
    ids = np.empty(size, np.int32)
    inverse = np.empty(size, np.int32)
    start = np.zeros(size + 1, np.int32)
    # Most ids occur again and again. A table for as many distinct ones as there might be would lie
    # outside the core's cache.
    bits = 10
    while (4 << bits) < size:
        bits += 1
    done, distinct = _number(ids_N, 0, _hashed(ids[:0], bits), ids, 0, inverse, start)
    while done < size:
        bits += 2
        table = _hashed(ids[:distinct], bits)
        done, distinct = _number(ids_N, done, table, ids, distinct, inverse, start)
    if owners > 1:
        ids, place = _by_owner(ids[:distinct], owners)
        counts = start[1 : distinct + 1].copy()
        for u in range(distinct):
            start[place[u] + 1] = counts[u]
        for i in range(size):
            inverse[i] = place[inverse[i]]
    for u in range(distinct):
        start[u + 1] += start[u]
    end = start[:distinct].copy()
    positions = np.empty(size, np.int32)
    for i in range(size):
        u = inverse[i]
        positions[end[u]] = i
        end[u] += 1
    return ids[:distinct].copy(), start[: distinct + 1].copy(), positions, inverse


@njit(nogil=True, cache=True)
def merge_repeats(ids_BS: Array, x_BS: Array, start: int, end: int, nothing: int) -> None:
    """Give a feature that the slots of a list hold several times all its x, in the first of them.

    For a pair of a feature with itself is none of the model's. The others become empty slots: the
    id ``nothing``, and x = 0.
    """
    for b in range(len(ids_BS)):
        for s in range(start + 1, end):
            for first in range(start, s):
                if ids_BS[b, first] == ids_BS[b, s] and x_BS[b, first] != 0 and x_BS[b, s] != 0:
                    x_BS[b, first] += x_BS[b, s]
                    ids_BS[b, s] = nothing
                    x_BS[b, s] = 0
                    break


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def pool(
    weight_XD: Array, index_BS: Array, x_BS: Array, sum_BK: Array, pooled_BK: Array, linear_B: Array
) -> None:
    """Bi-Interaction and the linear part of each row (He & Chua 2017, eq. 2-4), and sum_s x_s v_s.

    Writes the last three arguments.
    """
    rows, slots = index_BS.shape
    factors = weight_XD.shape[1] - 1
    index_N, last = index_BS.reshape(-1), index_BS.size - 1
    none = weight_XD.dtype.type(0)
    for b in prange(rows):
        total, square = sum_BK[b], pooled_BK[b]
        total[:] = 0
        square[:] = 0
        linear = none
        # Two slots at once: the sums are read and written half as often. An odd last one goes along
        # with itself, which counts nothing.
        for s in range(0, slots, 2):
            t = min(s + 1, slots - 1)
            for ahead in range(AHEAD, AHEAD + 2):
                prefetch_row(weight_XD, index_N[min(b * slots + s + ahead, last)])
            row, x = weight_XD[index_BS[b, s]], x_BS[b, s]
            other, z = weight_XD[index_BS[b, t]], x_BS[b, t] if t > s else none
            for k in range(factors):
                e, f = row[k] * x, other[k] * z
                total[k] += e + f
                square[k] += e * e + f * f
            linear += row[factors] * x + other[factors] * z
        linear_B[b] = linear
        for k in range(factors):
            square[k] = (total[k] * total[k] - square[k]) / 2


@njit(nogil=True, cache=True)
def first_of(piece: int, start: Array) -> int:
    """The distinct id at which a piece begins, so that all pieces have like work."""
    distinct = len(start) - 1
    goal = (start[distinct] + _ROW_WORK * distinct) * piece // PIECES
    low, high = 0, distinct
    while low < high:
        middle = (low + high) // 2
        if start[middle] + _ROW_WORK * middle < goal:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def row_of(position: Any, per_slot: float) -> Any:
    """``position // slots``, of 31 bits, with ``per_slot`` = 1 / slots: a division takes longer."""
    return np.int64((position + 0.5) * per_slot)


@njit(nogil=True, cache=True)
def _any(l1_D: Array, l2_D: Array) -> bool:
    """Whether there is a penalty; on one thread, as the loops of its caller would not be."""
    return bool(np.any(l1_D != 0) or np.any(l2_D != 0))


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def pool_gradient(
    weight_XD: Array,
    index_U: Array,
    start: Array,
    positions_N: Array,
    x_BS: Array,
    sum_BK: Array,
    grad_pooled_BK: Array,
    grad_linear_B: Array,
    l1_D: Array,
    l2_D: Array,
    out_UD: Array,
    rule: int,
    first_XD: Array,
    second_XD: Array,
    constants: Array,
) -> None:
    """Gradient of the distinct rows, penalties included.

    With g the gradient of a row's pooled vector and s its sum of x v, feature i receives
    ``sum over its occurrences of x g (s - x v_i)``, here ``sum x g s - v_i sum x^2 g``.

    ``rule`` KEEP writes ``out_UD``; any other steps the rows of the table at once by it, with the
    state of the rows and the constants as ``step_rows`` takes them.
    """
    distinct, width = len(index_U), weight_XD.shape[1]
    (rows, factors), per_slot = sum_BK.shape, 1 / x_BS.shape[1]
    x_N, last = x_BS.reshape(-1), len(positions_N) - 1
    both_BK2 = np.empty((rows, 2 * factors), weight_XD.dtype)  # g s beside g: one place to look
    for b in prange(rows):
        for k in range(factors):
            both_BK2[b, k] = grad_pooled_BK[b, k] * sum_BK[b, k]
            both_BK2[b, factors + k] = grad_pooled_BK[b, k]
    penalised = _any(l1_D, l2_D)
    for piece in prange(PIECES):
        grad = np.empty(width, weight_XD.dtype)
        squares = np.empty(factors, weight_XD.dtype)
        for u in range(first_of(piece, start), first_of(piece + 1, start)):
            ahead = index_U[min(u + AHEAD, distinct - 1)]
            prefetch_row(weight_XD, ahead)
            if rule >= MOMENTUM:
                prefetch_row(first_XD, ahead)
                if rule == ADAM:
                    prefetch_row(second_XD, ahead)
            grad[:] = 0
            squares[:] = 0
            count = 0
            for j in range(start[u], start[u + 1]):
                prefetch_row(x_N, positions_N[min(j + AHEAD, last)])
                soon = positions_N[min(j + AHEAD_IN_BATCH, last)]
                prefetch_row(both_BK2, row_of(soon, per_slot))
                x = x_N[positions_N[j]]
                if x == 0:
                    continue
                count += 1
                b = row_of(positions_N[j], per_slot)
                both = both_BK2[b]
                for k in range(factors):
                    grad[k] += x * both[k]
                    squares[k] += x * x * both[factors + k]
                grad[factors] += x * grad_linear_B[b]
            row = weight_XD[index_U[u]]
            for k in range(factors):
                grad[k] -= row[k] * squares[k]
            if penalised:
                for d in range(width):
                    grad[d] += count * (l2_D[d] * row[d] + l1_D[d] * np.sign(row[d]))
            if rule == KEEP:
                out_UD[u, :] = grad
            else:
                step_row(weight_XD, first_XD, second_XD, index_U[u], grad, rule, constants)
