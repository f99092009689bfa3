"""The compiled loops over rows of a table, on a CPU: what is common to all models.

Shapes: R = rows of the table on this worker, X = rows that a batch reads from, U = distinct rows of
a step, M = rows that the workers send to one of them, D = width of a row.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

Array = npt.NDArray[Any]

# What is done with the gradient of a row; from MOMENTUM on with a first moment, for ADAM a second.
KEEP, SGD, MOMENTUM, ADAGRAD, ADAM = range(5)

# Sums may be reordered into vector lanes; NaN must stay NaN, for the trainer looks for it.
FAST = {"reassoc", "contract", "arcp", "nsz"}
# Pieces of a loop over distinct ids, more than threads; of like work, for frequent ids come first.
PIECES = 64
# How many rows are asked of memory ahead of their use: measured, 8 to 16 are alike.
AHEAD = 12
# The same of rows that the batch itself brought, which lie nearer.
AHEAD_IN_BATCH = 4
_CACHE_LINE = 64  # bytes


def _prefetch_code(typing_context: Any, rows: Any, index: Any) -> Any:
    """Ask memory for one row of a matrix, all cache lines of it, or one number of a vector.

    A row is a random place in a large table: without asking ahead a step waits for each in turn.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(rows)(context, builder, args[0])
        word, flag = ir.IntType(64), ir.IntType(32)
        pointer = ir.IntType(8).as_pointer()
        stride = cgutils.unpack_tuple(builder, array.strides)[0]
        start = builder.ptrtoint(array.data, word)
        start = builder.add(start, builder.mul(stride, builder.sext(args[1], word)))
        last = builder.add(start, builder.sub(stride, word(1)))
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")

        def ask(place: Any) -> None:
            builder.call(call, [builder.inttoptr(place, pointer), flag(0), flag(3), flag(1)])

        ask(start)
        wide = builder.icmp_signed(">", stride, word(2 * _CACHE_LINE))
        with (
            builder.if_then(wide),
            cgutils.for_range_slice(
                builder, builder.add(start, word(_CACHE_LINE)), last, word(_CACHE_LINE)
            ) as (place, _),
        ):
            ask(place)
        ask(last)
        return context.get_dummy_value()

    return types.void(rows, index), generate


prefetch_row: Any = intrinsic(_prefetch_code)


@njit(nogil=True, fastmath=FAST, inline="always")
def step_row(weight_XD, first_XD, second_XD, at, grad_D, rule, c):  # type: ignore[no-untyped-def]
    """Step one row of the table by a rule, with its constants (see ``nfm.row_optimizers``)."""
    row = weight_XD[at]
    rate, eps = c[0], c[1]  # read before the loops, which could otherwise not be vectorised
    if rule == ADAGRAD:
        first = first_XD[at]
        for d in range(len(grad_D)):
            first[d] += grad_D[d] * grad_D[d]
            row[d] -= rate * grad_D[d] / (np.sqrt(first[d]) + eps)
    elif rule == SGD:
        for d in range(len(grad_D)):
            row[d] -= rate * grad_D[d]
    elif rule == MOMENTUM:
        velocity, momentum = first_XD[at], c[1]
        for d in range(len(grad_D)):
            velocity[d] = momentum * velocity[d] + grad_D[d]
            row[d] -= rate * velocity[d]
    else:
        first, second = first_XD[at], second_XD[at]
        beta1, rest1, beta2, rest2, correction2 = c[2], c[3], c[4], c[5], c[6]
        for d in range(len(grad_D)):
            first[d] = beta1 * first[d] + rest1 * grad_D[d]
            second[d] = beta2 * second[d] + rest2 * grad_D[d] * grad_D[d]
            row[d] -= rate * first[d] / (np.sqrt(second[d] / correction2) + eps)


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def step_rows(
    weight_RD: Array,
    first_RD: Array,
    second_RD: Array,
    index_U: Array,
    grad_UD: Array,
    rule: int,
    constants: Array,
) -> None:
    """Step distinct rows by their gradient, in place."""
    distinct = len(index_U)
    for u in prange(distinct):
        ahead = index_U[min(u + AHEAD, distinct - 1)]
        prefetch_row(weight_RD, ahead)
        if rule >= MOMENTUM:
            prefetch_row(first_RD, ahead)
        if rule == ADAM:
            prefetch_row(second_RD, ahead)
        step_row(weight_RD, first_RD, second_RD, index_U[u], grad_UD[u], rule, constants)


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def sum_rows(start: Array, positions_M: Array, rows_MD: Array, out_UD: Array) -> None:
    """Add up the rows that belong to each distinct id, in the order of their positions."""
    for u in prange(len(start) - 1):
        out = out_UD[u]
        out[:] = rows_MD[positions_M[start[u]]]
        for j in range(start[u] + 1, start[u + 1]):
            row = rows_MD[positions_M[j]]
            for d in range(len(out)):
                out[d] += row[d]


@njit(parallel=True, nogil=True, fastmath=FAST, cache=True)
def squared_norm(grad_UD: Array) -> float:
    """The sum of the squares, in float64, in pieces that do not depend on the number of threads."""
    grad_N = grad_UD.reshape(-1)
    parts: Array = np.empty(PIECES, np.float64)
    for piece in prange(PIECES):
        total = np.float64(0)
        for i in range(grad_N.size * piece // PIECES, grad_N.size * (piece + 1) // PIECES):
            total += np.float64(grad_N[i]) * np.float64(grad_N[i])
        parts[piece] = total
    return float(parts.sum())
