"""The distributed training step: N workers compute what one would on all their rows.

The objective of a step is the mean over all workers' rows of
``loss(y, y_hat) + sum over the row's features of (l2/2 * v^2 + l1 * |v|)``,
and the penalty of the dense weights. A worker differentiates the sum over its own rows divided by
the number of all rows, so that the gradients of the workers simply add up.

Shapes: B = rows of this worker, S = slots, U = distinct ids, D = K + 1.
"""

import torch
from torch import nn
from torch.nn import functional as F

from conf.schema import PenaltyConfig, TrainConfig
from nfm.batch import Batch
from nfm.collectives import Collectives
from nfm.lookup import KernelLookup, Lookup, TorchLookup
from nfm.models.nfm import NFM
from nfm.table import EmbeddingTable


def row_losses(task: str, logits_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """Logistic loss of each row in nats (binary), or its squared error (regression)."""
    if task == "binary":
        return F.binary_cross_entropy_with_logits(logits_B, label_B, reduction="none")
    return (logits_B - label_B).square()


class TrainStep:
    """A model, its table, and what one step does to them.

    Args:
        model: The dense part; the same on every worker.
        table: The embeddings; the same on every worker, and kept so by every step.
        workers: Who takes the step together.
        task: binary or regression.
        config: Optimiser and penalties.
    """

    def __init__(
        self,
        model: NFM,
        table: EmbeddingTable,
        workers: Collectives,
        task: str,
        config: TrainConfig,
    ) -> None:
        self.model, self.table, self.workers = model, table, workers
        self.task, self.l1, self.l2 = task, config.l1, config.l2
        self.l1_D = _per_column(config.l1, table.weight_VD)
        self.l2_D = _per_column(config.l2, table.weight_VD)
        self.lookup: Lookup = KernelLookup() if table.compiled else TorchLookup()
        self.dense = list(model.parameters())
        self.matrices = [p for p in self.dense if p.ndim > 1]
        rate = config.optimizer.learning_rate
        self.optimizer: torch.optim.Optimizer
        if config.optimizer.name == "adagrad":
            start = config.optimizer.initial_accumulator
            self.optimizer = torch.optim.Adagrad(
                self.dense, lr=rate, initial_accumulator_value=start
            )
        else:
            self.optimizer = torch.optim.Adam(self.dense, lr=rate)

    def __call__(self, batch: Batch, all_rows: int) -> float:
        """Take one step with the other workers.

        Args:
            batch: This worker's rows; may have none.
            all_rows: Rows of all workers in this step; at least one.

        Returns:
            The summed loss of this worker's rows, penalties apart.
        """
        self.model.train()
        weight_VD = self.table.weight_VD
        linear_B, pooled_BK = self.lookup.forward(weight_VD, batch)
        loss = row_losses(self.task, self.model(linear_B, pooled_BK), batch.label_B).sum()
        self.optimizer.zero_grad()
        (loss / all_rows).backward()
        assert linear_B.grad is not None
        assert pooled_BK.grad is not None
        ids_U, grad_UD = self.lookup.gradient(
            weight_VD, linear_B.grad, pooled_BK.grad, self.l1_D / all_rows, self.l2_D / all_rows
        )
        self._sum_dense_gradients()
        self.optimizer.step()
        self.table.update(*self._sum_row_gradients(ids_U, grad_UD))
        return float(loss.detach())

    def _sum_dense_gradients(self) -> None:
        """One fused sum over the workers, then the penalty, which no worker's rows weigh."""
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.dense]
        total = self.workers.sum(nn.utils.parameters_to_vector(grads), "grad.dense")
        for parameter, part in zip(
            self.dense, total.split([g.numel() for g in grads]), strict=True
        ):
            parameter.grad = part.view_as(parameter)
        for matrix in self.matrices:
            weight = matrix.detach()
            matrix.grad.add_(self.l2.dense * weight + self.l1.dense * weight.sign())  # type: ignore[union-attr]

    def _sum_row_gradients(
        self, ids_U: torch.Tensor, grad_UD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The union of all workers' ids, and their gradients added in order of rank."""
        if self.workers.size == 1:
            return ids_U, grad_UD
        all_ids = self.workers.gather(ids_U, "grad.ids")
        all_grads = self.workers.gather(grad_UD, "grad.rows")
        union_ids, inverse = torch.unique(all_ids, return_inverse=True)
        summed = torch.zeros(len(union_ids), grad_UD.shape[1], dtype=grad_UD.dtype)
        return union_ids, summed.index_add_(0, inverse, all_grads)


def _per_column(strength: PenaltyConfig, like_VD: torch.Tensor) -> torch.Tensor:
    """The strength of each column of the table: K times the factors', then the linear weight's."""
    columns = torch.full_like(like_VD[0], strength.embedding)
    columns[-1] = strength.linear
    return columns
