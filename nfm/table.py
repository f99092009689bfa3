"""The embedding table [v_i | w_i] and the optimisers of its rows.

A step reads and writes the rows of the batch's distinct ids, never the whole table: its cost does
not depend on the number of features. Shapes: V = features, U = distinct ids, D = K + 1.
"""

from typing import Protocol

import torch

from conf.schema import OptimizerConfig
from nfm import kernels


class RowOptimizer(Protocol):
    """Turns the gradient of some rows into a step, with its own state per row."""

    state: dict[str, torch.Tensor]

    def update(self, weight_VD: torch.Tensor, ids_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``ids_U``, which are distinct, in place."""
        ...


class RowAdagrad:
    """Adagrad (Duchi et al. 2011), elementwise: w -= lr * g / (sqrt(sum of g^2) + eps)."""

    EPS = 1e-10

    def __init__(self, weight_VD: torch.Tensor, config: OptimizerConfig, compiled: bool) -> None:
        self.learning_rate, self.compiled = config.learning_rate, compiled
        self.state = {"sum": torch.full_like(weight_VD, config.initial_accumulator)}

    def update(self, weight_VD: torch.Tensor, ids_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``ids_U``, which are distinct, in place."""
        if self.compiled:
            of_type = weight_VD.numpy().dtype.type
            kernels.adagrad_rows(
                *(weight_VD.numpy(), self.state["sum"].numpy(), ids_U.numpy(), grad_UD.numpy()),
                *(of_type(self.learning_rate), of_type(self.EPS)),
            )
            return
        sum_UD = self.state["sum"][ids_U].addcmul_(grad_UD, grad_UD)
        self.state["sum"][ids_U] = sum_UD
        weight_VD[ids_U] -= self.learning_rate * grad_UD / (sum_UD.sqrt_() + self.EPS)


class RowAdam:
    """Adam (Kingma & Ba 2015), lazy: the moments of a row decay only when it is touched.

    Where Adam moves every row at every step, this moves the rows of the batch; the bias
    correction counts steps of the run. With every row touched at every step both are the same.
    """

    BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

    def __init__(self, weight_VD: torch.Tensor, config: OptimizerConfig, compiled: bool) -> None:
        self.learning_rate, self.compiled = config.learning_rate, compiled
        self.state = {
            "step": torch.zeros((), dtype=torch.int64),
            "mean": torch.zeros_like(weight_VD),
            "square": torch.zeros_like(weight_VD),
        }

    def update(self, weight_VD: torch.Tensor, ids_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows ``ids_U``, which are distinct, in place."""
        self.state["step"] += 1
        step = int(self.state["step"])
        rate, correction2 = self.learning_rate / (1 - self.BETA1**step), 1 - self.BETA2**step
        if self.compiled:
            of_type = weight_VD.numpy().dtype.type
            kernels.adam_rows(
                *(weight_VD.numpy(), self.state["mean"].numpy(), self.state["square"].numpy()),
                *(ids_U.numpy(), grad_UD.numpy(), of_type(rate)),
                *map(of_type, (self.BETA1, self.BETA2, correction2, self.EPS)),
            )
            return
        mean_UD = self.state["mean"][ids_U].lerp_(grad_UD, 1 - self.BETA1)
        square_UD = self.state["square"][ids_U].mul_(self.BETA2)
        square_UD.addcmul_(grad_UD, grad_UD, value=1 - self.BETA2)
        self.state["mean"][ids_U] = mean_UD
        self.state["square"][ids_U] = square_UD
        root_UD = (square_UD / correction2).sqrt_().add_(self.EPS)
        weight_VD[ids_U] -= rate * mean_UD / root_UD


_OPTIMIZERS: dict[str, type[RowAdagrad] | type[RowAdam]] = {"adagrad": RowAdagrad, "adam": RowAdam}


class EmbeddingTable:
    """One row [v_i | w_i] per feature: K factors and the linear weight.

    Args:
        num_features: Rows V.
        embedding_dim: Factors K.
        std: Deviation of the initial factors; linear weights start at 0.
        optimizer: How its rows step.
        generator: Source of the initial factors.
        dtype: Of the table.
        compiled: Whether compiled loops work on it (main memory only) or plain torch does.
    """

    def __init__(
        self,
        num_features: int,
        embedding_dim: int,
        *,
        std: float,
        optimizer: OptimizerConfig,
        generator: torch.Generator,
        dtype: torch.dtype,
        compiled: bool,
    ) -> None:
        self.compiled = compiled
        self.weight_VD = torch.zeros(num_features, embedding_dim + 1, dtype=dtype)
        self.weight_VD[:, :-1].normal_(std=std, generator=generator)
        self.optimizer: RowOptimizer = _OPTIMIZERS[optimizer.name](
            self.weight_VD, optimizer, compiled
        )

    def update(self, ids_U: torch.Tensor, grad_UD: torch.Tensor) -> None:
        """Step the rows of these distinct ids, in place."""
        self.optimizer.update(self.weight_VD, ids_U, grad_UD)
