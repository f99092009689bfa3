"""From a batch to what a model reads of the table, and from its gradient back to rows.

A model reads its rows pooled (this module) or field by field (``nfm.field_lookup``); each has two
implementations of one thing: compiled loops on the CPU, and plain torch on any device. The tests
hold one against the other.

Shapes: B = rows of a batch, S = slots, N = B * S, K = factors, D = K + 1, U = distinct ids,
X = rows that the batch reads from: the whole table, or a copy of its distinct rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nfm import kernels, row_kernels
from nfm.batch import Batch
from nfm.layers import bi_interaction
from nfm.row_optimizers import RowOptimizer

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Rows:
    """Where a batch finds the rows of its features.

    Attributes:
        weight_XD: The rows.
        index_BS: Per slot, its row of ``weight_XD``.
        index_U: Per distinct id, its row of ``weight_XD``; None if that is the id itself.
    """

    weight_XD: torch.Tensor
    index_BS: torch.Tensor
    index_U: torch.Tensor | None

    def of_distinct(self, batch: Batch) -> torch.Tensor:
        """Rows of the batch's distinct ids: indices [U] into ``weight_XD``."""
        return batch.groups.ids_U if self.index_U is None else self.index_U


@dataclass(frozen=True)
class Upstream:
    """The gradient at each tensor that a lookup gave to the model, and the penalties.

    To each feature of each row of the batch belongs the penalty ``l2/2 * v^2 + l1 * |v|``.
    """

    grads: Tensors
    l1_D: torch.Tensor
    l2_D: torch.Tensor


class Lookup(ABC):
    """The table's part in one step: ``forward``, then ``gradient`` or ``learn`` of the same.

    Args:
        field_S: The number of the field that each slot belongs to, int32.

    Attributes:
        rows: What the last ``forward`` read.
    """

    rows: Rows
    batch: Batch

    def __init__(self, field_S: torch.Tensor) -> None:
        self.field_S = field_S

    @abstractmethod
    def forward(self, rows: Rows, batch: Batch) -> Tensors:
        """What the model reads; each tensor asks autograd for its gradient."""

    @abstractmethod
    def gradient(self, upstream: Upstream) -> torch.Tensor:
        """The gradient of the distinct rows [U, D]; valid until the next step."""

    @abstractmethod
    def learn(self, upstream: Upstream, optimizer: RowOptimizer) -> None:
        """Compute the gradient and step the rows, which are the table's own, at once."""


class TorchLookup(Lookup):
    """Plain torch, with closed forms of the gradient."""

    @abstractmethod
    def read(self, weight_XD: torch.Tensor) -> Tensors:
        """What the model reads of ``self.rows``."""

    @abstractmethod
    def gradient_of_slots(self, grads: Tensors) -> torch.Tensor:
        """The gradient of the row in each slot, penalties apart: [B, S, D]."""

    def forward(self, rows: Rows, batch: Batch) -> Tensors:
        """What the model reads; each tensor asks autograd for its gradient."""
        self.rows, self.batch = rows, batch
        return tuple(part.requires_grad_() for part in self.read(rows.weight_XD))

    def gradient(self, upstream: Upstream) -> torch.Tensor:
        """The gradient of the distinct rows [U, D]."""
        rows_UD = self.rows.weight_XD[self.rows.of_distinct(self.batch)]
        grad_ND = self.gradient_of_slots(upstream.grads).flatten(end_dim=1)
        inverse_N = self.batch.groups.inverse_N
        grad_UD = torch.zeros_like(rows_UD).index_add_(0, inverse_N, grad_ND)
        present_N = (self.batch.x_BS != 0).to(rows_UD.dtype).flatten()
        counts_U = torch.zeros_like(rows_UD[:, 0]).index_add_(0, inverse_N, present_N)
        penalty_UD = upstream.l2_D * rows_UD + upstream.l1_D * rows_UD.sign()
        return grad_UD + counts_U.unsqueeze(1) * penalty_UD

    def learn(self, upstream: Upstream, optimizer: RowOptimizer) -> None:
        """Compute the gradient and step the rows."""
        index_U = self.rows.of_distinct(self.batch)
        optimizer.update(self.rows.weight_XD, index_U, self.gradient(upstream))


class KernelLookup(Lookup):
    """Compiled loops, for a table in main memory."""

    def __init__(self, field_S: torch.Tensor) -> None:
        super().__init__(field_S)
        # Kept from step to step: fresh pages cost more than the sums written to them.
        self.buffer_UD: row_kernels.Array | None = None

    @abstractmethod
    def run(
        self,
        upstream: Upstream,
        out_UD: row_kernels.Array,
        rule: int,
        moments: tuple[row_kernels.Array, row_kernels.Array],
        constants: row_kernels.Array,
    ) -> None:
        """Write the gradient of the distinct rows, or step them by it (``row_kernels.KEEP``)."""

    def gradient(self, upstream: Upstream) -> torch.Tensor:
        """The gradient of the distinct rows [U, D]; valid until the next step."""
        weight_XD = self.rows.weight_XD.numpy()
        distinct, width = len(self.batch.groups.ids_U), weight_XD.shape[1]
        if self.buffer_UD is None or len(self.buffer_UD) < distinct:
            self.buffer_UD = np.empty((distinct * 5 // 4, width), weight_XD.dtype)
        grad_UD = self.buffer_UD[:distinct]
        unused_RD = np.empty((0, width), weight_XD.dtype)
        self.run(upstream, grad_UD, row_kernels.KEEP, (unused_RD, unused_RD), unused_RD[:, 0])
        return torch.from_numpy(grad_UD)

    def learn(self, upstream: Upstream, optimizer: RowOptimizer) -> None:
        """Compute the gradient and step the rows, which are the table's own, at once."""
        weight_XD = self.rows.weight_XD.numpy()
        out = np.empty((0, weight_XD.shape[1]), weight_XD.dtype)
        self.run(upstream, out, optimizer.rule, optimizer.moments(), optimizer.advance())


@dataclass(frozen=True)
class Reading:
    """What a kind of model reads of the table.

    Attributes:
        read: Of rows, indices [B, S], values [B, S] and the slots' fields [S], in plain torch that
            autograd can follow; for scoring, and to hold the lookups against.
        plain: The lookup in plain torch.
        compiled: The lookup in compiled loops.
    """

    read: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Tensors]
    plain: type[TorchLookup]
    compiled: type[KernelLookup]


def read_pooled(
    weight_XD: torch.Tensor, index_BS: torch.Tensor, x_BS: torch.Tensor, field_S: torch.Tensor
) -> Tensors:
    """The linear part sum_s w_s x_s [B] and the Bi-Interaction [B, K] of each row."""
    xrows_BSD = weight_XD[index_BS] * x_BS.unsqueeze(-1)
    return xrows_BSD[..., -1].sum(dim=1), bi_interaction(xrows_BSD[..., :-1])


class TorchPooled(TorchLookup):
    """The closed form of the gradient: x * g * (s - x v)."""

    def read(self, weight_XD: torch.Tensor) -> Tensors:
        """Linear part [B] and Bi-Interaction [B, K]."""
        return read_pooled(weight_XD, self.rows.index_BS, self.batch.x_BS, self.field_S)

    def gradient_of_slots(self, grads: Tensors) -> torch.Tensor:
        """The gradient of the row in each slot, penalties apart: [B, S, D]."""
        grad_linear_B, grad_pooled_BK = grads
        x_BS1 = self.batch.x_BS.unsqueeze(-1)
        e_BSK = self.rows.weight_XD[self.rows.index_BS][..., :-1] * x_BS1
        s_B1K = e_BSK.sum(dim=1, keepdim=True)
        grad_v_BSK = x_BS1 * grad_pooled_BK.unsqueeze(1) * (s_B1K - e_BSK)
        return torch.cat([grad_v_BSK, x_BS1 * grad_linear_B.view(-1, 1, 1)], dim=-1)


class KernelPooled(KernelLookup):
    """The loops of ``nfm.kernels``."""

    def forward(self, rows: Rows, batch: Batch) -> Tensors:
        """Linear part [B] and Bi-Interaction [B, K]; both ask autograd for their gradient."""
        self.rows, self.batch = rows, batch
        weight_XD = rows.weight_XD.numpy()
        shape = len(batch), weight_XD.shape[1] - 1
        self.sum_BK = np.empty(shape, weight_XD.dtype)
        pooled_BK, linear_B = np.empty_like(self.sum_BK), np.empty(len(batch), weight_XD.dtype)
        kernels.pool(
            *(weight_XD, rows.index_BS.numpy(), batch.x_BS.numpy()),
            *(self.sum_BK, pooled_BK, linear_B),
        )
        linear, pooled = torch.from_numpy(linear_B), torch.from_numpy(pooled_BK)
        return linear.requires_grad_(), pooled.requires_grad_()

    def run(
        self,
        upstream: Upstream,
        out_UD: row_kernels.Array,
        rule: int,
        moments: tuple[row_kernels.Array, row_kernels.Array],
        constants: row_kernels.Array,
    ) -> None:
        """Write the gradient of the distinct rows, or step them by it."""
        groups = self.batch.groups
        grad_linear_B, grad_pooled_BK = upstream.grads
        kernels.pool_gradient(
            *(self.rows.weight_XD.numpy(), self.rows.of_distinct(self.batch).numpy()),
            *(groups.start.numpy(), groups.positions_N.numpy()),
            *(self.batch.x_BS.numpy(), self.sum_BK),
            *(grad_pooled_BK.contiguous().numpy(), grad_linear_B.contiguous().numpy()),
            *(upstream.l1_D.numpy(), upstream.l2_D.numpy(), out_UD),
            rule=rule,
            first_XD=moments[0],
            second_XD=moments[1],
            constants=constants,
        )


POOLED = Reading(read_pooled, TorchPooled, KernelPooled)
