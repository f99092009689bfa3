"""The layers of the model family.

Shapes: B = rows of a batch, S = slots, K = embedding dimension, H = units of a layer.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from nfm.collectives import Collectives

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def bi_interaction(xv_BSK: torch.Tensor) -> torch.Tensor:
    """Pool all pairwise products of a row's feature embeddings (He & Chua 2017, eq. 3-4).

    Computes ``0.5 * ((sum_s x_s v_s)^2 - sum_s (x_s v_s)^2)`` in O(S*K): [B, S, K] to [B, K].

    Example:
        >>> bi_interaction(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        tensor([[3., 8.]])
    """
    return 0.5 * (xv_BSK.sum(dim=1).square() - xv_BSK.square().sum(dim=1))


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015) over the rows of all workers.

    Every row of a step counts once, on whichever worker it is, so N workers normalise as one
    would on the concatenated batch. (Horovod's own SyncBatchNorm refuses CPU tensors.)

    Args:
        num_features: Width H of the input.
        name: Of its collectives; unique in a model.
        workers: Who to sum with.
        momentum: Weight of a new batch in the running statistics, in (0, 1].
    """

    EPS = 1e-5

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(
        self, num_features: int, *, name: str, workers: Collectives, momentum: float
    ) -> None:
        super().__init__()
        self.name, self.workers, self.momentum = name, workers, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x_BH: torch.Tensor) -> torch.Tensor:
        """Normalise [B, H]; with the step's statistics in training, else the running ones."""
        if not self.training:
            scale = torch.rsqrt(self.running_var + self.EPS)
            return (x_BH - self.running_mean) * scale * self.weight + self.bias
        normal_BH, mean_H, var_H, rows = _Normalise.apply(  # type: ignore[no-untyped-call]
            x_BH, self.workers, self.name, self.EPS
        )
        if rows > 1:  # one row has no variance to learn from
            with torch.no_grad():
                unbiased_H = var_H * (rows / (rows - 1))
                self.running_mean.lerp_(mean_H.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_(unbiased_H.to(self.running_var.dtype), self.momentum)
        out: torch.Tensor = normal_BH * self.weight + self.bias
        return out


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps), with mean and var over the rows of all workers.

    With n rows in all and y the result, the gradient is
    ``(g - sum(g)/n - y * sum(g*y)/n) / sqrt(var + eps)``; both sums run over all workers.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BH: torch.Tensor, workers: Collectives, name: str, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        # float64: the difference of two large sums must not eat the variance.
        wide_BH = x_BH.double()
        count = torch.tensor([len(x_BH)], dtype=torch.float64, device=x_BH.device)
        local = torch.cat([wide_BH.sum(dim=0), wide_BH.square().sum(dim=0), count])
        total = workers.sum(local, f"{name}.forward")
        rows = total[-1]
        mean_H, square_H = (total[:-1] / rows).chunk(2)
        var_H = (square_H - mean_H.square()).clamp(min=0.0)
        scale_H = torch.rsqrt(var_H + eps).to(x_BH.dtype)
        y_BH = (x_BH - mean_H.to(x_BH.dtype)) * scale_H
        ctx.save_for_backward(y_BH, scale_H, rows)
        ctx.workers, ctx.name = workers, name
        ctx.mark_non_differentiable(mean_H, var_H, rows)
        return y_BH, mean_H, var_H, rows

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor, None, None, None]:
        (g_BH, *_) = grads
        y_BH, scale_H, rows = ctx.saved_tensors
        local = torch.cat([g_BH.sum(dim=0), (g_BH * y_BH).sum(dim=0)]).double()
        total = ctx.workers.sum(local, f"{ctx.name}.backward") / rows
        mean_g_H, mean_gy_H = total.to(g_BH.dtype).chunk(2)
        return (g_BH - mean_g_H - y_BH * mean_gy_H) * scale_H, None, None, None


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) at the speed of memory on a CPU.

    torch draws a CPU mask element by element from one generator on one thread, which took a third
    of a whole step; here one draw from torch's generator seeds SFC64, whose raw bytes are the mask,
    16 bits an element. So masks follow ``torch.manual_seed``, and ``p`` is met to 1/65536.

    Args:
        p: Probability of dropping an element, in [0, 1).
    """

    LEVELS = 1 << 16

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropped = round(p * self.LEVELS)

    def forward(self, x_BH: torch.Tensor) -> torch.Tensor:
        """Drop elements and scale up the rest in training; else leave all as they are."""
        if not self.training or not self.dropped:
            return x_BH
        if x_BH.is_cuda:
            return nn.functional.dropout(x_BH, self.dropped / self.LEVELS)
        seed = int(torch.randint(2**62, ()))
        bits = np.random.Generator(np.random.SFC64(seed)).bytes(2 * x_BH.numel())
        kept = np.frombuffer(bits, dtype=np.uint16) >= self.dropped
        scale = self.LEVELS / (self.LEVELS - self.dropped)
        mask_BH = torch.from_numpy(kept).view(x_BH.shape).to(x_BH.dtype).mul_(scale)
        return x_BH * mask_BH


class HiddenLayer(nn.Module):
    """Linear, batch norm, activation, dropout: [B, H_in] to [B, H_out]."""

    def __init__(self, linear: nn.Linear, norm: nn.Module, activation: str, dropout: float) -> None:
        super().__init__()
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.linear, self.norm = linear, norm
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout)

    def forward(self, h_BH: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        out: torch.Tensor = self.dropout(self.activation(self.norm(self.linear(h_BH))))
        return out
