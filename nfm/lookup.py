"""From a batch to what a model reads of the table, and from its gradient back to rows.

Two implementations of one thing: ``KernelLookup`` runs compiled loops on the CPU, ``TorchLookup``
plain torch on any device; the tests hold one against the other.

Shapes: B = rows of a batch, S = slots, K = factors, D = K + 1, U = distinct ids, V = features.
"""

from typing import Protocol

import numpy as np
import torch

from nfm import kernels
from nfm.batch import Batch
from nfm.layers import bi_interaction


def read_rows(
    weight_VD: torch.Tensor, ids_BS: torch.Tensor, x_BS: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear part sum_s w_s x_s [B] and the Bi-Interaction [B, K] of each row."""
    xrows_BSD = weight_VD[ids_BS] * x_BS.unsqueeze(-1)
    return xrows_BSD[..., -1].sum(dim=1), bi_interaction(xrows_BSD[..., :-1])


class Lookup(Protocol):
    """The table's part in one step: first ``forward``, then ``gradient`` of the same batch."""

    def forward(self, weight_VD: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Linear part [B] and Bi-Interaction [B, K]; both ask autograd for their gradient."""
        ...

    def gradient(
        self,
        weight_VD: torch.Tensor,
        grad_linear_B: torch.Tensor,
        grad_pooled_BK: torch.Tensor,
        l1_D: torch.Tensor,
        l2_D: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct ids [U] and the gradient of their rows [U, D].

        To each feature of each row of the batch belongs the penalty ``l2/2 * v^2 + l1 * |v|``.
        """
        ...


class TorchLookup:
    """Plain torch, with the closed form of the gradient: x * g * (s - x v)."""

    def forward(self, weight_VD: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Linear part [B] and Bi-Interaction [B, K]; both ask autograd for their gradient."""
        self.batch = batch
        linear_B, pooled_BK = read_rows(weight_VD, batch.ids_BS, batch.x_BS)
        return linear_B.requires_grad_(), pooled_BK.requires_grad_()

    def gradient(
        self,
        weight_VD: torch.Tensor,
        grad_linear_B: torch.Tensor,
        grad_pooled_BK: torch.Tensor,
        l1_D: torch.Tensor,
        l2_D: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct ids [U] and the gradient of their rows [U, D]."""
        x_BS1 = self.batch.x_BS.unsqueeze(-1)
        ids_U, inverse_BS = torch.unique(self.batch.ids_BS, return_inverse=True)
        rows_UD = weight_VD[ids_U]
        e_BSK = rows_UD[inverse_BS][..., :-1] * x_BS1
        s_B1K = e_BSK.sum(dim=1, keepdim=True)
        grad_v_BSK = x_BS1 * grad_pooled_BK.unsqueeze(1) * (s_B1K - e_BSK)
        grad_w_BS1 = x_BS1 * grad_linear_B.view(-1, 1, 1)
        grad_BSD = torch.cat([grad_v_BSK, grad_w_BS1], dim=-1)
        grad_UD = torch.zeros_like(rows_UD).index_add_(
            0, inverse_BS.flatten(), grad_BSD.flatten(end_dim=1)
        )
        present_N = (self.batch.x_BS != 0).to(rows_UD.dtype).flatten()
        counts_U = torch.zeros_like(rows_UD[:, 0]).index_add_(0, inverse_BS.flatten(), present_N)
        penalty_UD = l2_D * rows_UD + l1_D * rows_UD.sign()
        return ids_U, grad_UD + counts_U.unsqueeze(1) * penalty_UD


class KernelLookup:
    """The compiled loops of ``nfm.kernels``, for a table in main memory."""

    def __init__(self) -> None:
        # Kept from step to step: fresh pages cost more than the sums written to them.
        self.buffer_UD = np.empty((0, 0))

    def forward(self, weight_VD: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Linear part [B] and Bi-Interaction [B, K]; both ask autograd for their gradient."""
        self.ids_BS, self.x_BS = batch.ids_BS.numpy(), batch.x_BS.numpy()
        weight = weight_VD.numpy()
        shape = len(batch), weight.shape[1] - 1
        self.sum_BK = np.empty(shape, weight.dtype)
        pooled_BK, linear_B = np.empty(shape, weight.dtype), np.empty(len(batch), weight.dtype)
        kernels.pool(weight, self.ids_BS, self.x_BS, self.sum_BK, pooled_BK, linear_B)
        linear, pooled = torch.from_numpy(linear_B), torch.from_numpy(pooled_BK)
        return linear.requires_grad_(), pooled.requires_grad_()

    def gradient(
        self,
        weight_VD: torch.Tensor,
        grad_linear_B: torch.Tensor,
        grad_pooled_BK: torch.Tensor,
        l1_D: torch.Tensor,
        l2_D: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct ids [U] and the gradient of their rows [U, D]."""
        ids_U, start, positions_N = kernels.group_ids(self.ids_BS.reshape(-1))
        shape = len(ids_U), weight_VD.shape[1]
        if len(self.buffer_UD) < len(ids_U):
            self.buffer_UD = np.empty(shape, self.sum_BK.dtype)
        grad_UD = self.buffer_UD[: len(ids_U)]
        kernels.pool_gradient(
            *(weight_VD.numpy(), ids_U, start, positions_N, self.x_BS, self.sum_BK),
            *(grad_pooled_BK.contiguous().numpy(), grad_linear_B.contiguous().numpy()),
            *(l1_D.numpy(), l2_D.numpy(), grad_UD),
        )
        return torch.from_numpy(ids_U), torch.from_numpy(grad_UD)
