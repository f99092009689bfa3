"""The optimisers: each steps some rows of a table, never the whole.

The dense parameters step by the same rules, as one row (``nfm.dense``).

Shapes: R = rows of the table on this worker, U = distinct rows of a step, D = K + 1.
"""

from typing import Protocol

import numpy as np
import torch

from conf.training import OptimizerConfig
from nfm import kernels, memory


class RowOptimizer(Protocol):
    """Turns the gradient of some rows into a step, with its own state per row.

    Attributes:
        rule: What the compiled loops call it.
        state: Per row or per run, as named tensors; a tensor [R, D] belongs to the rows.
    """

    rule: int
    state: dict[str, torch.Tensor]

    def update(self, weight_RD: torch.Tensor, index_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``index_U``, which are distinct, in place."""
        ...

    def moments(self) -> tuple[kernels.Array, kernels.Array]:
        """The state of the rows, for the compiled loops."""
        ...

    def advance(self) -> kernels.Array:
        """Begin a step; returns its constants, for the compiled loops."""
        ...


class RowAdagrad:
    """Adagrad (Duchi et al. 2011), elementwise: w -= lr * g / (sqrt(sum of g^2) + eps)."""

    EPS = 1e-10
    rule = kernels.ADAGRAD

    def __init__(self, weight_RD: torch.Tensor, config: OptimizerConfig) -> None:
        self.learning_rate = config.learning_rate
        self.state = {"sum": new_rows(weight_RD.shape, weight_RD.dtype, weight_RD.device)}
        self.state["sum"].fill_(config.initial_accumulator)

    def update(self, weight_RD: torch.Tensor, index_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``index_U``, which are distinct, in place."""
        sum_UD = self.state["sum"][index_U].addcmul_(grad_UD, grad_UD)
        self.state["sum"][index_U] = sum_UD
        weight_RD[index_U] -= self.learning_rate * grad_UD / (sum_UD.sqrt_() + self.EPS)

    def moments(self) -> tuple[kernels.Array, kernels.Array]:
        """The sums of squares, which also stand for a second moment that the rule does not have."""
        return (self.state["sum"].numpy(),) * 2

    def advance(self) -> kernels.Array:
        """Begin a step; returns rate and eps."""
        return np.array([self.learning_rate, self.EPS], self.state["sum"].numpy().dtype)


class RowAdam:
    """Adam (Kingma & Ba 2015), lazy: the moments of a row decay only when it is touched.

    Where Adam moves every row at every step, this moves the rows of the batch; the bias
    correction counts steps of the run. With every row touched at every step both are the same.
    """

    BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
    rule = kernels.ADAM

    def __init__(self, weight_RD: torch.Tensor, config: OptimizerConfig) -> None:
        self.learning_rate = config.learning_rate
        self.state = {
            "step": torch.zeros((), dtype=torch.int64),
            "mean": new_rows(weight_RD.shape, weight_RD.dtype, weight_RD.device),
            "square": new_rows(weight_RD.shape, weight_RD.dtype, weight_RD.device),
        }

    def update(self, weight_RD: torch.Tensor, index_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``index_U``, which are distinct, in place."""
        rate, correction2 = self._corrected()
        mean_UD = self.state["mean"][index_U].lerp_(grad_UD, 1 - self.BETA1)
        square_UD = self.state["square"][index_U].mul_(self.BETA2)
        square_UD.addcmul_(grad_UD, grad_UD, value=1 - self.BETA2)
        self.state["mean"][index_U] = mean_UD
        self.state["square"][index_U] = square_UD
        root_UD = (square_UD / correction2).sqrt_().add_(self.EPS)
        weight_RD[index_U] -= rate * mean_UD / root_UD

    def moments(self) -> tuple[kernels.Array, kernels.Array]:
        """The first and the second moment."""
        return self.state["mean"].numpy(), self.state["square"].numpy()

    def advance(self) -> kernels.Array:
        """Begin a step; returns rate, eps, beta1, 1 - beta1, beta2, 1 - beta2, correction."""
        rate, correction2 = self._corrected()
        return np.array(
            [rate, self.EPS, self.BETA1, 1 - self.BETA1, self.BETA2, 1 - self.BETA2, correction2],
            self.state["mean"].numpy().dtype,
        )

    def _corrected(self) -> tuple[float, float]:
        """The rate with the first moment's bias correction, and the second moment's."""
        self.state["step"] += 1
        step = int(self.state["step"])
        return self.learning_rate / (1 - self.BETA1**step), 1 - self.BETA2**step


ROW_OPTIMIZERS: dict[str, type[RowAdagrad] | type[RowAdam]] = {
    "adagrad": RowAdagrad,
    "adam": RowAdam,
}


def step_rows(
    weight_RD: torch.Tensor, optimizer: RowOptimizer, index_U: torch.Tensor, grad_UD: torch.Tensor
) -> None:
    """Step distinct rows in place, on a CPU by compiled loops."""
    if weight_RD.is_cuda:
        optimizer.update(weight_RD, index_U, grad_UD)
        return
    kernels.step_rows(
        *(weight_RD.numpy(), *optimizer.moments(), index_U.numpy(), grad_UD.numpy()),
        *(optimizer.rule, optimizer.advance()),
    )


def new_rows(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Rows of zeros."""
    if device.type == "cpu":
        return memory.zeros(shape, dtype)
    return torch.zeros(shape, dtype=dtype, device=device)
