"""The dense parameters of a model as one vector, so that a step handles all of them at once.

Shapes: N = numbers in all dense parameters together.
"""

from collections.abc import Sequence

import torch
from torch import nn

from conf.training import TrainConfig
from nfm.collectives import Collectives, Later
from nfm.row_optimizers import RowOptimizer, new_optimizer, step_rows


class DenseParameters:
    """A model's parameters, moved side by side: each becomes a view of the vector.

    Attributes:
        optimizer: How they step: the rule of the table's rows, on a single row.

    Args:
        model: Whose parameters they are; backward passes through it add to their gradients.
        config: Optimiser and penalties.
        told: How many other numbers go along with each sum of the gradients.
    """

    optimizer: RowOptimizer

    def __init__(self, model: nn.Module, config: TrainConfig, told: int) -> None:
        parameters = list(model.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        weight_N = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self._weight_1N = weight_N.unsqueeze(0)
        self._row = torch.zeros(1, dtype=torch.int32, device=weight_N.device)
        self._message = weight_N.new_zeros(len(weight_N) + told)
        grad_N, self._told = self._message.split([len(weight_N), told])
        for parameter, weight, grad in zip(
            parameters, weight_N.split(sizes), grad_N.split(sizes), strict=True
        ):
            parameter.data = weight.view_as(parameter)
            parameter.grad = grad.view_as(parameter)
        # Penalties and decay fall on the matrices, which no row of the data weighs.
        matrix_N = torch.cat([weight_N.new_full((p.numel(),), p.ndim > 1) for p in parameters])
        self._l1_N, self._l2_N = config.l1.dense * matrix_N, config.l2.dense * matrix_N
        self._penalised = config.l1.dense > 0 or config.l2.dense > 0
        self._decay_N = config.optimizer.weight_decay * matrix_N
        self._decayed = config.optimizer.weight_decay > 0
        self.optimizer = new_optimizer(
            self._weight_1N, config.optimizer, config.optimizer.learning_rate
        )

    def zero_gradients(self) -> None:
        """Forget the last backward pass."""
        self._message.zero_()

    def sum_gradients(self, workers: Collectives, told: Sequence[torch.Tensor]) -> Later:
        """Begin to add up the gradients, and some numbers, over the workers.

        Returns:
            What returns the sums: [N + told].
        """
        torch.stack(list(told), out=self._told)
        return workers.sum_later(self._message, "grad.dense")

    def gradient(self, summed: torch.Tensor) -> torch.Tensor:
        """The sums of the gradients, penalties added: [1, N]."""
        grad_1N = summed[: self._weight_1N.shape[1]].unsqueeze(0)
        if self._penalised:
            weight_1N = self._weight_1N
            grad_1N = grad_1N + self._l2_N * weight_1N + self._l1_N * weight_1N.sign()
        return grad_1N

    def learn(self, grad_1N: torch.Tensor) -> None:
        """Step by a gradient; before it the matrices decay (Loshchilov & Hutter 2019)."""
        if self._decayed:
            self._weight_1N *= 1 - self.optimizer.rate * self._decay_N
        step_rows(self._weight_1N, self.optimizer, self._row, grad_1N)
