"""The embedding table [v_i | w_i]: one row per feature, K factors and the linear weight.

A step reads and writes the rows of the batch's distinct ids, never the whole table: its cost does
not depend on the number of features. The rows are either replicated on every worker, or sharded:
worker r of N owns the features i with i % N == r, as its rows i // N.

Shapes: V = features, R = rows on this worker, U = distinct ids, D = K + 1, M = rows that the
workers send to one of them.
"""

import logging
from typing import Protocol

import numpy as np
import torch

from conf.schema import Config
from nfm import row_kernels
from nfm.batch import Batch, Groups, group
from nfm.collectives import Collectives
from nfm.lookup import Lookup, Rows, Upstream
from nfm.placement import choose_placement
from nfm.row_optimizers import (
    RowOptimizer,
    new_optimizer,
    new_rows,
    squared_norm,
    step_rows,
)

# Rows that are drawn at once, so that the draws take little memory. Every worker draws all rows and
# keeps its own: so the table is the same for any number of workers.
_CHUNK_ROWS = 1 << 16

RowGradient = tuple[torch.Tensor, torch.Tensor]  # distinct rows [U], and their gradients [U, D]

logger = logging.getLogger(__name__)


class EmbeddingTable(Protocol):
    """The table's part in a step: ``read``, ``send`` the gradient, ``receive``, ``learn`` or not.

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

    def receive(self, *, measured: bool) -> float:
        """Add up all workers' gradients of this one's rows.

        Args:
            measured: Whether their norm is asked for.

        Returns:
            The squared norm of the gradient of all rows, alike on every worker; 0 if not measured.
        """
        ...

    def learn(self, scale: float) -> None:
        """Step its rows by their gradient times ``scale``, which is 1 where it was not measured."""
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
        if learning:
            self.ids_U = batch.groups.ids_U
            if self.workers.size > 1:
                self.ids_M = self.workers.gather_later(self.ids_U, "table.ids")
        return Rows(self.weight_RD, batch.ids_BS, index_U=None)

    def send(self, lookup: Lookup, upstream: Upstream) -> None:
        """Give the other workers the gradient of the batch that was read last."""
        self.lookup, self.upstream = lookup, upstream
        if self.workers.size > 1:
            self.grad_MD = self.workers.gather_later(lookup.gradient(upstream), "table.gradients")

    def receive(self, *, measured: bool) -> float:
        """Add up the gradients; one worker waits with it to ``learn``, unless it is measured."""
        self.summed: RowGradient | None = None
        if self.workers.size > 1:
            groups = group(self.ids_M())  # while the gradients are under way
            self.summed = groups.ids_U, sum_by_group(groups, self.grad_MD())
        elif measured:
            self.summed = self.ids_U, self.lookup.gradient(self.upstream)
        return squared_norm(self.summed[1]) if self.summed and measured else 0.0

    def learn(self, scale: float) -> None:
        """Step the rows; where their gradient was not added up yet, in the same sweep."""
        if self.summed is None:
            self.lookup.learn(self.upstream, self.optimizer)
        else:
            _step_scaled(self.weight_RD, self.optimizer, *self.summed, scale)


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
        asked_M, asked_lengths = self.workers.exchange_later(asked_U, self.lengths, "table.ids")()
        rows_later = self.workers.exchange_later(
            self.weight_RD[asked_M], asked_lengths, "table.rows"
        )
        if learning:
            self.asked = group(asked_M)  # while the rows are under way
        rows_UD, _ = rows_later()
        index_U = torch.arange(len(asked_U), dtype=torch.int32, device=asked_U.device)
        return Rows(rows_UD, groups.inverse_N.view_as(batch.ids_BS), index_U)

    def send(self, lookup: Lookup, upstream: Upstream) -> None:
        """Give the owners the gradient of the rows that were read last."""
        self.grad_MD = self.workers.exchange_later(
            lookup.gradient(upstream), self.lengths, "table.gradients"
        )

    def receive(self, *, measured: bool) -> float:
        """Add up the gradients of the rows that workers read of this one; the norm is of all."""
        grad_MD, _ = self.grad_MD()
        self.summed = self.asked.ids_U, sum_by_group(self.asked, grad_MD)
        if not measured:
            return 0.0
        mine = torch.tensor([squared_norm(self.summed[1])], dtype=torch.float64)
        return self.workers.sum(mine, "table.norm").item()

    def learn(self, scale: float) -> None:
        """Step the rows that workers read of this one."""
        _step_scaled(self.weight_RD, self.optimizer, *self.summed, scale)


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
    rule = config.train.optimizer
    placement: str = config.train.placement
    if placement == "auto":
        placement = choose_placement(config, num_features, workers, device)
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
    rate = rule.embedding_learning_rate or rule.learning_rate
    optimizer = new_optimizer(weight_RD, rule, rate)
    if shards > 1:
        return ShardedTable(weight_RD, optimizer, workers, num_features)
    return ReplicatedTable(weight_RD, optimizer, workers)


def sum_by_group(groups: Groups, grad_MD: torch.Tensor) -> torch.Tensor:
    """Gradients of the distinct rows [U, D], of the same parts always the same to the last bit."""
    if grad_MD.is_cuda:
        # Not index_add_, whose order changes: replicas would drift apart. This sorts the indices.
        grad_UD = grad_MD.new_zeros(len(groups.ids_U), grad_MD.shape[1])
        grad_UD.index_put_((groups.inverse_N.long(),), grad_MD, accumulate=True)
    else:
        grad_UD = torch.empty(len(groups.ids_U), grad_MD.shape[1], dtype=grad_MD.dtype)
        row_kernels.sum_rows(
            *(groups.start.numpy(), groups.positions_N.numpy(), grad_MD.numpy(), grad_UD.numpy())
        )
    return grad_UD


def _step_scaled(
    weight_RD: torch.Tensor,
    optimizer: RowOptimizer,
    index_U: torch.Tensor,
    grad_UD: torch.Tensor,
    scale: float,
) -> None:
    """Step distinct rows by their gradient times ``scale``, which it may write over."""
    if scale != 1:
        grad_UD *= scale
    step_rows(weight_RD, optimizer, index_U, grad_UD)
