"""The layers of the model family, in plain torch.

Where one follows the other, ``nfm.chain`` computes them on a CPU.

Shapes: B = rows of a batch, S = slots, K = embedding dimension, H = units of a layer.
"""

from typing import Any

import torch
from torch import nn

from nfm import layer_kernels as kernels
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
        running = self.running_mean, self.running_var
        mean_H, var_H = self._statistics(x_BH) if self.training else running
        mean_H, dtype = mean_H.to(self.weight.dtype), self.weight.dtype
        scale_H = torch.rsqrt(var_H + self.EPS).to(dtype) * self.weight
        return (x_BH - mean_H) * scale_H + self.bias

    def sum(self, sums: torch.Tensor, direction: str) -> torch.Tensor:
        """Add up over the workers; nothing is exchanged where there is one."""
        if self.workers.size == 1:
            return sums
        return self.workers.sum(sums, f"{self.name}.{direction}")

    def _statistics(self, x_BH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance [H] over the rows of all workers; updates the running ones."""
        # float64: the difference of two large sums must not eat the variance.
        wide_BH = x_BH.double()
        count = wide_BH.new_tensor([len(x_BH)])
        sums = torch.cat([wide_BH.sum(dim=0), wide_BH.square().sum(dim=0), count])
        total: torch.Tensor = _Sum.apply(sums, self)  # type: ignore[no-untyped-call]
        rows = total[-1].detach().clamp(min=1.0)  # a worker of its own may have none
        mean_H, square_H = (total[:-1] / rows).chunk(2)
        var_H = (square_H - mean_H.square()).clamp(min=0.0)
        with torch.no_grad():  # one row has no variance to learn from
            momentum = (rows > 1).to(rows.dtype) * self.momentum
            unbiased_H = var_H * rows / (rows - 1).clamp(min=1.0)
            for running_H, new_H in ((self.running_mean, mean_H), (self.running_var, unbiased_H)):
                running_H += momentum * (new_H - running_H)
        return mean_H, var_H


class _Sum(torch.autograd.Function):
    """Batch norm's sum over the workers, whose gradient is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, sums: torch.Tensor, norm: BatchNorm) -> torch.Tensor:
        ctx.norm = norm
        return norm.sum(sums, "forward")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor, None]:
        return ctx.norm.sum(grads[0], "backward"), None


class Linear(nn.Linear):
    """A linear layer of which, in predictions on a CPU, no row depends on the rows beside it.

    Where there are few outputs (torch's MKL: below about 12), BLAS adds up a row in another order
    when it begins at another place in memory. Compiled loops do not, and are no slower there.
    """

    _NARROW = 16

    def forward(self, x_BH: torch.Tensor) -> torch.Tensor:
        """Apply the layer to [B, in_features]."""
        predicts = not (self.training or torch.is_grad_enabled())
        if not predicts or x_BH.is_cuda or self.out_features >= self._NARROW:
            return super().forward(x_BH)
        out_BO = x_BH.new_empty(len(x_BH), self.out_features)
        bias_O = out_BO.new_zeros(self.out_features) if self.bias is None else self.bias.detach()
        kernels.linear(
            *(x_BH.contiguous().numpy(), self.weight.detach().numpy()),
            *(bias_O.numpy(), out_BO.numpy()),
        )
        return out_BO


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose mask is a hash of a seed and an element's place.

    torch draws a CPU mask element by element on one thread, a third of a whole step. Here one draw
    from torch's generator is the seed: masks follow ``torch.manual_seed``, are the same on every
    device, and are met to 2^-32 of ``p``.

    Args:
        p: Probability of dropping an element, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropped = min(round(p * 2**32), 2**32 - 1)

    def forward(self, x_BH: torch.Tensor) -> torch.Tensor:
        """Drop elements and scale up the rest in training; else leave all as they are."""
        if not self.training or not self.dropped:
            return x_BH
        kept_BH = _hashes(draw_seed(), x_BH) >= self.dropped
        return x_BH * kept_BH.to(x_BH.dtype).mul_(2**32 / (2**32 - self.dropped))


def draw_seed() -> int:
    """A seed of a mask, from torch's generator of the CPU."""
    return int(torch.randint(2**63 - 1, ()))


def _hashes(seed: int, like_BH: torch.Tensor) -> torch.Tensor:
    """What ``nfm.layer_kernels`` hashes each element to, in [0, 2^32): int64 [B, H]."""
    low = 2**32 - 1  # 32-bit arithmetic in 64 bits, as torch has no unsigned products
    place_N = torch.arange(like_BH.numel(), device=like_BH.device)
    bits_N = ((seed & low) + place_N * ((seed >> 31 | 1) & low)) & low
    bits_N = ((bits_N ^ bits_N >> 16) * 0x21F0AAAD) & low
    bits_N = ((bits_N ^ bits_N >> 15) * 0xD35A2D97) & low
    return bits_N.view(like_BH.shape)


class NormActDropout(nn.Module):
    """Batch norm, activation, dropout: what follows the pooling and every linear layer.

    Args:
        norm: The batch norm, if there is one.
        activation: A key of ``ACTIVATIONS``, if there is one.
        dropout: Probability of dropping an element, in [0, 1).
    """

    def __init__(self, norm: BatchNorm | None, activation: str | None, dropout: float) -> None:
        super().__init__()
        self.norm = norm
        self.activation = ACTIVATIONS[activation]() if activation else nn.Identity()
        self.dropout = Dropout(dropout)

    def forward(self, x_BH: torch.Tensor) -> torch.Tensor:
        """Apply the three to [B, H]."""
        normal_BH = x_BH if self.norm is None else self.norm(x_BH)
        out: torch.Tensor = self.dropout(self.activation(normal_BH))
        return out


class HiddenLayer(nn.Module):
    """A linear layer and what follows it: [B, H_in] to [B, H_out]."""

    def __init__(self, linear: Linear, after: NormActDropout) -> None:
        super().__init__()
        nn.init.xavier_normal_(linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        self.linear, self.after = linear, after

    def forward(self, h_BH: torch.Tensor) -> torch.Tensor:
        """Apply the layer."""
        out: torch.Tensor = self.after(self.linear(h_BH))
        return out
