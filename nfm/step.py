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
        ids_U, inverse_BS = torch.unique(batch.ids_BS, return_inverse=True)
        rows_UD = self.table.weight_VD[ids_U].requires_grad_()
        logits_B = self.model(rows_UD[inverse_BS], batch.x_BS)
        loss = row_losses(self.task, logits_B, batch.label_B).sum()
        counts_U = torch.zeros(len(ids_U), dtype=rows_UD.dtype)
        counts_U.index_add_(0, inverse_BS.flatten(), (batch.x_BS != 0).to(rows_UD.dtype).flatten())
        penalty = row_penalty(rows_UD, counts_U, self.l1, self.l2)
        self.optimizer.zero_grad()
        ((loss + penalty) / all_rows).backward()
        assert rows_UD.grad is not None
        self._sum_dense_gradients()
        self.optimizer.step()
        self.table.update(*self._sum_row_gradients(ids_U, rows_UD.grad))
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


def row_penalty(
    rows_UD: torch.Tensor, counts_U: torch.Tensor, l1: PenaltyConfig, l2: PenaltyConfig
) -> torch.Tensor:
    """The penalty of the rows' features, each as often as rows of the batch hold it."""
    v_UK, w_U = rows_UD[:, :-1], rows_UD[:, -1]
    per_feature_U = (
        0.5 * l2.embedding * v_UK.square().sum(dim=1)
        + 0.5 * l2.linear * w_U.square()
        + l1.embedding * v_UK.abs().sum(dim=1)
        + l1.linear * w_U.abs()
    )
    return (counts_U * per_feature_U).sum()
