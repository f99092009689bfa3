"""The least a step has to do, as a contestant: gathers, scatters and matrix products, nothing else.

The rows of a batch are summed up out of the table, gradient rows are summed up per distinct id,
these rows are stepped in place, and the two layers are multiplied forwards and backwards. There is
no grouping of ids, Bi-Interaction, batch norm, activation, dropout, loss or bookkeeping.

Shapes: V = features, B = rows, S = slots, N = B * S, U = distinct ids, D = K + 1, H = hidden units.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit, prange

from benchmarks import settings
from benchmarks.contest import serve
from benchmarks.task import Task, parse
from benchmarks.workload import Array, batches

_FAST = {"reassoc", "contract"}
_CHUNKS = 16


@njit(parallel=True, fastmath=_FAST)
def gather(table_VD: Array, ids_BS: Array, out_BD: Array) -> None:
    """Sum up the table's rows of each row of the batch."""
    for b in prange(len(ids_BS)):
        out = out_BD[b]
        out[:] = 0
        for s in range(ids_BS.shape[1]):
            row = table_VD[ids_BS[b, s]]
            for d in range(len(out)):
                out[d] += row[d]


@njit(parallel=True, fastmath=_FAST)
def scatter(grad_BD: Array, start: Array, rows_N: Array, bounds: Array, out_UD: Array) -> None:
    """Sum up the gradients of each distinct id; ``bounds`` cut the ids for the threads."""
    for chunk in prange(len(bounds) - 1):
        for u in range(bounds[chunk], bounds[chunk + 1]):
            out = out_UD[u]
            out[:] = 0
            for j in range(start[u], start[u + 1]):
                grad = grad_BD[rows_N[j]]
                for d in range(len(out)):
                    out[d] += grad[d]


@njit(parallel=True, fastmath=_FAST)
def update(table_VD: Array, state_VD: Array, ids_U: Array, grad_UD: Array) -> None:
    """Read and write the row of each distinct id, in the table and in the optimiser's state."""
    for u in prange(len(ids_U)):
        row, state, grad = table_VD[ids_U[u]], state_VD[ids_U[u]], grad_UD[u]
        for d in range(len(grad)):
            state[d] += grad[d]
            row[d] -= grad[d]


def products(x_BK: torch.Tensor, w_KH: torch.Tensor, v_H1: torch.Tensor) -> None:
    """Both layers forwards, and the gradients of their inputs and weights."""
    h_BH = x_BK @ w_KH
    y_B1 = h_BH @ v_H1
    h_BH.T @ y_B1
    g_BH = y_B1 @ v_H1.T
    x_BK.T @ g_BH
    g_BH @ w_KH.T


@dataclass(frozen=True)
class Grouped:
    """A batch, its distinct ids (ascending), and the rows in which each occurs."""

    ids_BS: Array
    ids_U: Array
    start: Array
    rows_N: Array
    bounds: Array


def grouped(ids_BS: Array) -> Grouped:
    """Group a batch, ahead of time; every chunk of ids has as many occurrences."""
    ids_U, counts = np.unique(ids_BS, return_counts=True)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    rows_N = np.argsort(ids_BS, axis=None, kind="stable") // ids_BS.shape[1]
    bounds = np.searchsorted(start, np.linspace(0, ids_BS.size, _CHUNKS + 1))
    return Grouped(ids_BS, ids_U, start, rows_N.astype(np.int32), bounds)


def main(task: Task) -> None:
    """Serve bare steps."""
    torch.set_num_threads(task.threads)
    rows, factors, slots = task.rows(), task.shape.factors, len(task.shape.cardinalities)
    rng = np.random.default_rng(0)
    shape = (task.shape.features, factors + 1)
    table, state = rng.standard_normal(shape, np.float32), np.zeros(shape, np.float32)
    grad_BD = rng.standard_normal((task.batch, factors + 1), np.float32) * 1e-6
    source = itertools.cycle(
        [grouped(rows.ids_BF[cut] + task.shape.offsets) for cut in batches(rows, task.batch)]
    )
    grad_ND = np.empty((task.batch * slots, factors + 1), np.float32)
    pooled_BD = np.empty((task.batch, factors + 1), np.float32)
    x_BK, w_KH = torch.randn(task.batch, factors), torch.randn(factors, settings.HIDDEN)
    v_H1 = torch.randn(settings.HIDDEN, 1)

    def step() -> int:
        batch = next(source)
        gather(table, batch.ids_BS, pooled_BD)
        products(x_BK, w_KH, v_H1)
        grad_UD = grad_ND[: len(batch.ids_U)]
        scatter(grad_BD, batch.start, batch.rows_N, batch.bounds, grad_UD)
        update(table, state, batch.ids_U, grad_UD)
        return task.batch

    serve(step)


if __name__ == "__main__":
    main(parse())
