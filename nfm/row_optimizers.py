"""The optimisers: each steps some rows of a table, never the whole.

The dense parameters step by the same rules, as one row (``nfm.dense``).

Shapes: R = rows of the table on this worker, U = distinct rows of a step, D = K + 1.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch

from conf.training import OptimizerConfig
from nfm import memory, row_kernels


class RowOptimizer(ABC):
    """Turns the gradient of some rows into a step, with its own state per row.

    Attributes:
        rule: What the compiled loops call it.
        state: Per row or per run, as named tensors; a tensor [R, D] belongs to the rows.
        factor: What the schedule multiplies the learning rate by in the step to come.

    Args:
        weight_RD: What it will step.
        learning_rate: Step size.
    """

    rule: int

    def __init__(self, weight_RD: torch.Tensor, learning_rate: float) -> None:
        self.learning_rate, self.factor = learning_rate, 1.0
        self.state: dict[str, torch.Tensor] = {}
        self._number = weight_RD[:0].cpu().numpy().dtype
        self._no_rows = np.empty((0, weight_RD.shape[1]), self._number)

    @property
    def rate(self) -> float:
        """The learning rate of the step to come."""
        return self.learning_rate * self.factor

    @abstractmethod
    def update(self, weight_RD: torch.Tensor, index_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``index_U``, which are distinct, in place."""

    @abstractmethod
    def moments(self) -> tuple[row_kernels.Array, row_kernels.Array]:
        """The state of the rows, for the compiled loops: two tables, any where there are fewer."""

    @abstractmethod
    def constants(self) -> list[float]:
        """Begin a step; returns what the compiled loops have to know, the rate first."""

    def advance(self) -> row_kernels.Array:
        """Begin a step; returns its constants in the type of the weights."""
        return np.array(self.constants(), self._number)


class RowSGD(RowOptimizer):
    """Gradient descent: v = momentum * v + g, w -= lr * v; lazy: v changes when a row is touched.

    With every row touched at every step this is torch.optim.SGD, without dampening and Nesterov's
    look ahead. Without momentum there is no state.
    """

    def __init__(
        self, weight_RD: torch.Tensor, config: OptimizerConfig, learning_rate: float
    ) -> None:
        super().__init__(weight_RD, learning_rate)
        self.momentum = config.momentum
        self.rule = row_kernels.MOMENTUM if self.momentum else row_kernels.SGD
        if self.momentum:
            self.state["velocity"] = _like(weight_RD)

    def update(self, weight_RD: torch.Tensor, index_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``index_U``, which are distinct, in place."""
        if self.momentum:
            grad_UD = self.state["velocity"][index_U].mul_(self.momentum).add_(grad_UD)
            self.state["velocity"][index_U] = grad_UD
        weight_RD[index_U] -= self.rate * grad_UD

    def moments(self) -> tuple[row_kernels.Array, row_kernels.Array]:
        """The velocities."""
        velocity = self.state["velocity"].numpy() if self.momentum else self._no_rows
        return velocity, self._no_rows

    def constants(self) -> list[float]:
        """Begin a step; returns rate and momentum."""
        return [self.rate, self.momentum]


class RowAdagrad(RowOptimizer):
    """Adagrad (Duchi et al. 2011), elementwise: w -= lr * g / (sqrt(sum of g^2) + eps)."""

    EPS = 1e-10
    rule = row_kernels.ADAGRAD

    def __init__(
        self, weight_RD: torch.Tensor, config: OptimizerConfig, learning_rate: float
    ) -> None:
        super().__init__(weight_RD, learning_rate)
        self.state["sum"] = _like(weight_RD).fill_(config.initial_accumulator)

    def update(self, weight_RD: torch.Tensor, index_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``index_U``, which are distinct, in place."""
        sum_UD = self.state["sum"][index_U].addcmul_(grad_UD, grad_UD)
        self.state["sum"][index_U] = sum_UD
        weight_RD[index_U] -= self.rate * grad_UD / (sum_UD.sqrt_() + self.EPS)

    def moments(self) -> tuple[row_kernels.Array, row_kernels.Array]:
        """The sums of squares."""
        return self.state["sum"].numpy(), self._no_rows

    def constants(self) -> list[float]:
        """Begin a step; returns rate and eps."""
        return [self.rate, self.EPS]


class RowAdam(RowOptimizer):
    """Adam (Kingma & Ba 2015), lazy: the moments of a row decay only when it is touched.

    Where Adam moves every row at every step, this moves the rows of the batch; the bias
    correction counts steps of the run. With every row touched at every step both are the same.
    """

    BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
    rule = row_kernels.ADAM

    def __init__(
        self, weight_RD: torch.Tensor, config: OptimizerConfig, learning_rate: float
    ) -> None:
        super().__init__(weight_RD, learning_rate)
        self.state = {
            "step": torch.zeros((), dtype=torch.int64),
            "mean": _like(weight_RD),
            "square": _like(weight_RD),
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

    def moments(self) -> tuple[row_kernels.Array, row_kernels.Array]:
        """The first and the second moment."""
        return self.state["mean"].numpy(), self.state["square"].numpy()

    def constants(self) -> list[float]:
        """Begin a step; returns rate, eps, beta1, 1 - beta1, beta2, 1 - beta2, correction."""
        rate, correction2 = self._corrected()
        beta1, beta2 = self.BETA1, self.BETA2
        return [rate, self.EPS, beta1, 1 - beta1, beta2, 1 - beta2, correction2]

    def _corrected(self) -> tuple[float, float]:
        """The rate with the first moment's bias correction, and the second moment's."""
        self.state["step"] += 1
        step = int(self.state["step"])
        return self.rate / (1 - self.BETA1**step), 1 - self.BETA2**step


_RULES: dict[str, type[RowSGD | RowAdagrad | RowAdam]] = {
    "sgd": RowSGD,
    "adagrad": RowAdagrad,
    "adam": RowAdam,
}


def new_optimizer(
    weight_RD: torch.Tensor, config: OptimizerConfig, learning_rate: float
) -> RowOptimizer:
    """The configured optimiser, at step 0."""
    return _RULES[config.name](weight_RD, config, learning_rate)


def state_per_weight(config: OptimizerConfig) -> int:
    """Numbers that the configured optimiser keeps for each weight of a table."""
    return {"sgd": int(config.momentum > 0), "adagrad": 1, "adam": 2}[config.name]


def step_rows(
    weight_RD: torch.Tensor, optimizer: RowOptimizer, index_U: torch.Tensor, grad_UD: torch.Tensor
) -> None:
    """Step distinct rows in place, on a CPU by compiled loops."""
    if weight_RD.is_cuda:
        optimizer.update(weight_RD, index_U, grad_UD)
        return
    row_kernels.step_rows(
        *(weight_RD.numpy(), *optimizer.moments(), index_U.numpy(), grad_UD.numpy()),
        *(optimizer.rule, optimizer.advance()),
    )


def squared_norm(grad_UD: torch.Tensor) -> float:
    """The sum of the squares, in float64; the same bits on any number of threads."""
    if grad_UD.is_cuda:
        return grad_UD.double().square().sum().item()
    return float(row_kernels.squared_norm(grad_UD.numpy()))


def new_rows(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Rows of zeros."""
    if device.type == "cpu":
        return memory.zeros(shape, dtype)
    return torch.zeros(shape, dtype=dtype, device=device)


def _like(weight_RD: torch.Tensor) -> torch.Tensor:
    """Rows of zeros, as many as the weights'."""
    return new_rows(weight_RD.shape, weight_RD.dtype, weight_RD.device)
