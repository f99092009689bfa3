"""The embedding table [v_i | w_i]: one row per feature, K factors and the linear weight.

A step reads and writes the rows of the batch's distinct ids, never the whole table: its cost does
not depend on the number of features. The rows are either replicated on every worker, or sharded:
worker r of N owns the features i with i % N == r, as its rows i // N.

Shapes: V = features, R = rows on this worker, U = distinct ids, D = K + 1, M = rows that the
workers send to one of them.
"""

import logging
import math
import os
from functools import partial
from typing import Protocol

import numpy as np
import torch

from conf.schema import Config
from nfm import kernels
from nfm.batch import Batch, group
from nfm.collectives import Collectives
from nfm.lookup import Lookup, Rows, Upstream
from nfm.row_optimizers import ROW_OPTIMIZERS, RowOptimizer, new_rows, step_rows

# Rows that share a random generator: any worker can make its own without making all the others'.
_CHUNK_ROWS = 1 << 16
# Two more collectives a step, in bytes that the network moves meanwhile (1 ms at 1 GB/s).
_SHARDING_LATENCY_BYTES = 1 << 20
# The share of a host's memory that its workers' tables and optimiser states may take.
_MEMORY_SHARE = 0.5

logger = logging.getLogger(__name__)


class EmbeddingTable(Protocol):
    """The table's part in a step: ``read``, then ``send`` the gradient, then ``learn`` or not.

    A prediction only reads.

    Attributes:
        num_features: V.
        shards: Workers that the rows are spread over; 1 if every worker has all.
        shard: Which of them this worker has.
        weight_RD: The rows on this worker.
        optimizer: How they step, with its state.
    """

    num_features: int
    shards: int
    shard: int
    weight_RD: torch.Tensor
    optimizer: RowOptimizer

    def read(self, batch: Batch, *, learning: bool) -> Rows:
        """The rows that a batch needs. All workers call it, also those without rows.

        Args:
            batch: This worker's rows.
            learning: Whether a gradient follows.
        """
        ...

    def send(self, lookup: Lookup, upstream: Upstream) -> None:
        """Give the other workers the gradient of the batch that was read last."""
        ...

    def learn(self, *, apply: bool) -> None:
        """Step its rows by all workers' gradients; without ``apply`` only receive those."""
        ...


class ReplicatedTable:
    """Every worker has all rows; distinct ids and gradient rows travel by allgather.

    All workers merge them in the same order, so the tables stay equal to the last bit.
    """

    shards, shard = 1, 0

    def __init__(self, weight_VD: torch.Tensor, optimizer: RowOptimizer, workers: Collectives):
        self.num_features = len(weight_VD)
        self.weight_RD, self.optimizer, self.workers = weight_VD, optimizer, workers

    def read(self, batch: Batch, *, learning: bool) -> Rows:
        """The table itself, by global ids; those that will learn travel meanwhile."""
        if learning and self.workers.size > 1:
            self.ids_M = self.workers.gather_later(batch.groups.ids_U, "table.ids")
        return Rows(self.weight_RD, batch.ids_BS, index_U=None)

    def send(self, lookup: Lookup, upstream: Upstream) -> None:
        """Give the other workers the gradient of the batch that was read last."""
        self.alone = partial(lookup.learn, upstream, self.optimizer)
        if self.workers.size > 1:
            self.grad_MD = self.workers.gather_later(lookup.gradient(upstream), "table.gradients")

    def learn(self, *, apply: bool) -> None:
        """Step its rows by all workers' gradients; without ``apply`` only receive those."""
        if self.workers.size > 1:
            received = self.ids_M(), self.grad_MD()
            if apply:
                _step_merged(self.weight_RD, self.optimizer, *received)
        elif apply:
            self.alone()


class ShardedTable:
    """Each worker owns a part of the rows; ids, rows and gradients travel by alltoall.

    Memory and traffic of a worker fall with the number of workers.
    """

    def __init__(
        self,
        weight_RD: torch.Tensor,
        optimizer: RowOptimizer,
        workers: Collectives,
        num_features: int,
    ):
        self.num_features, self.shards, self.shard = num_features, workers.size, workers.rank
        self.weight_RD, self.optimizer, self.workers = weight_RD, optimizer, workers

    def read(self, batch: Batch, *, learning: bool) -> Rows:
        """A copy of the batch's distinct rows, from their owners, in the order of its groups."""
        groups = batch.groups
        self.lengths = torch.bincount(groups.ids_U % self.shards, minlength=self.shards).tolist()
        asked_U = groups.ids_U // self.shards
        self.asked_M, asked_lengths = self.workers.exchange_later(
            asked_U, self.lengths, "table.ids"
        )()
        rows_UD, _ = self.workers.exchange_later(
            self.weight_RD[self.asked_M], asked_lengths, "table.rows"
        )()
        index_U = torch.arange(len(asked_U), dtype=torch.int32, device=asked_U.device)
        return Rows(rows_UD, groups.inverse_N.view_as(batch.ids_BS), index_U)

    def send(self, lookup: Lookup, upstream: Upstream) -> None:
        """Give the owners the gradient of the rows that were read last."""
        self.grad_MD = self.workers.exchange_later(
            lookup.gradient(upstream), self.lengths, "table.gradients"
        )

    def learn(self, *, apply: bool) -> None:
        """Step the rows that workers read of this one, by their gradients."""
        grad_MD, _ = self.grad_MD()
        if apply:
            _step_merged(self.weight_RD, self.optimizer, self.asked_M, grad_MD)


def new_table(
    config: Config,
    num_features: int,
    workers: Collectives,
    dtype: torch.dtype,
    device: torch.device,
) -> EmbeddingTable:
    """The table at step 0, placed by ``train.placement``; the same rows whatever the placement.

    Factors are normal with deviation ``model.embedding_std``, linear weights 0.
    """
    width = config.model.factors + 1
    rule = ROW_OPTIMIZERS[config.train.optimizer.name]
    placement: str = config.train.placement
    if placement == "auto":
        placement = _choose_placement(config, num_features, workers, device)
        logger.info("embedding table: %d rows, %s", num_features, placement)
    shards, shard = (workers.size, workers.rank) if placement == "sharded" else (1, 0)
    rows = len(range(shard, num_features, shards))
    weight_RD = new_rows(torch.Size([rows, width]), dtype, device)
    for start in range(0, num_features, _CHUNK_ROWS):
        entropy = (config.train.seed, start)
        count = min(_CHUNK_ROWS, num_features - start)
        random = np.random.Generator(np.random.SFC64(entropy))
        factors = random.standard_normal((count, width - 1), dtype=np.float32)
        first = (shard - start) % shards  # of this chunk, the first row that is this worker's
        mine = torch.from_numpy(factors[first::shards]).to(weight_RD)
        at = (start + first) // shards
        weight_RD[at : at + len(mine), :-1] = mine * config.model.embedding_std
    optimizer = rule(weight_RD, config.train.optimizer)
    if shards > 1:
        return ShardedTable(weight_RD, optimizer, workers, num_features)
    return ReplicatedTable(weight_RD, optimizer, workers)


def bytes_per_step(num_workers: int, distinct: int, row_bytes: int) -> tuple[float, float]:
    """What a worker receives in a step for the table: replicated, and sharded, in bytes.

    Args:
        num_workers: N.
        distinct: Distinct ids that each worker brings.
        row_bytes: Size of a row of the table.
    """
    others = num_workers - 1
    replicated = others * distinct * (4 + row_bytes)
    sharded = others / num_workers * distinct * (4 + 2 * row_bytes)
    return replicated, sharded


def _choose_placement(
    config: Config, num_features: int, workers: Collectives, device: torch.device
) -> str:
    """Replicated where it fits the memory of every worker and does not cost more traffic."""
    row_bytes = 4 * (config.model.factors + 1)
    moments = {"adagrad": 1, "adam": 2}[config.train.optimizer.name]
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = pages // workers.local_size
    too_large = num_features * row_bytes * (1 + moments) > memory * _MEMORY_SHARE
    anywhere = workers.sum(torch.tensor([float(too_large)]), "table.too_large")
    slots = sum(getattr(field, "max_length", 1) for field in config.fields)
    share = math.ceil(config.train.batch_size / workers.size)
    distinct = min(num_features, share * slots)
    replicated, sharded = bytes_per_step(workers.size, distinct, row_bytes)
    costly = replicated > sharded + _SHARDING_LATENCY_BYTES
    return "sharded" if workers.size > 1 and (bool(anywhere) or costly) else "replicated"


def _step_merged(
    weight_RD: torch.Tensor, optimizer: RowOptimizer, index_M: torch.Tensor, grad_MD: torch.Tensor
) -> None:
    """Add up the gradients of the same row, in the order in which they came, and step it."""
    groups = group(index_M)
    if weight_RD.is_cuda:
        grad_UD = grad_MD.new_zeros(len(groups.ids_U), grad_MD.shape[1])
        grad_UD.index_add_(0, groups.inverse_N, grad_MD)
    else:
        grad_UD = torch.empty(len(groups.ids_U), grad_MD.shape[1], dtype=grad_MD.dtype)
        kernels.sum_rows(
            *(groups.start.numpy(), groups.positions_N.numpy(), grad_MD.numpy(), grad_UD.numpy())
        )
    step_rows(weight_RD, optimizer, groups.ids_U, grad_UD)
