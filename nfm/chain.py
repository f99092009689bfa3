"""Layers that follow each other, as one operation in compiled loops and matrix products.

On a CPU the twin of ``nfm.layers``, whose plain torch the tests hold it against. As operations of
their own, autograd's way from one small layer to the next took longer than the layer.

Shapes: B = rows of a batch, H = units of a layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from nfm import layer_kernels as kernels
from nfm.layers import BatchNorm, Dropout, HiddenLayer, Linear, NormActDropout, draw_seed

Layer = Linear | NormActDropout | HiddenLayer
# From the gradient of an activation's result, and the result, to that of what it was given.
_CURVES = {nn.Tanh: torch.ops.aten.tanh_backward, nn.Sigmoid: torch.ops.aten.sigmoid_backward}


class Chain:
    """Layers one after the other: [B, H_in] to [B, H_out].

    What is neither training nor a prediction, but has a gradient, is plain torch's.

    Args:
        layers: In their order.
        compiled: Whether it is compiled loops (CPU only), or plain torch.
    """

    def __init__(self, layers: Sequence[Layer], *, compiled: bool) -> None:
        self.layers = layers
        self.steps = [step for layer in layers for step in _steps_of(layer)] if compiled else []

    def __call__(self, x_BH: torch.Tensor) -> torch.Tensor:
        """Apply the layers."""
        learns = torch.is_grad_enabled()
        if not self.steps or (learns and not self.layers[0].training):
            for layer in self.layers:
                x_BH = layer(x_BH)
        elif learns:
            parameters = [parameter for step in self.steps for parameter in step.parameters()]
            x_BH = _InTurn.apply(x_BH, self.steps, *parameters)  # type: ignore[no-untyped-call]
        else:
            x_BH = x_BH.detach().contiguous()
            for step in self.steps:
                x_BH, _ = step.forward(x_BH)
        return x_BH


class _InTurn(torch.autograd.Function):
    """The steps of a chain in training, forwards and backwards."""

    @staticmethod
    def forward(
        ctx: Any, x_BH: torch.Tensor, steps: "Sequence[_Step]", *_: torch.Tensor
    ) -> torch.Tensor:
        passed, ctx.steps, ctx.notes = [x_BH.detach().contiguous()], steps, []
        for step in steps:
            out_BH, note = step.forward(passed[-1])
            passed.append(out_BH)
            ctx.notes.append(note)
        ctx.save_for_backward(*passed)
        return passed[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        grad_BH: torch.Tensor = grads[0].contiguous()
        learnt: list[torch.Tensor] = []
        passed = list(pairwise(ctx.saved_tensors))
        for step, note, around in zip(ctx.steps[::-1], ctx.notes[::-1], passed[::-1], strict=True):
            grad_BH, own = step.backward(grad_BH, *around, note)
            learnt = [*own, *learnt]
        return grad_BH, None, *learnt


class _Step(ABC):
    """A part of a chain, without autograd."""

    def parameters(self) -> list[nn.Parameter]:
        """What it learns."""
        return []

    @abstractmethod
    def forward(self, x_BH: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The result, and a note for the way back."""

    @abstractmethod
    def backward(
        self, grad_BH: torch.Tensor, x_BH: torch.Tensor, y_BH: torch.Tensor, note: Any
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """From the gradient of the result ``y_BH`` to those of x and of the parameters."""


class _Product(_Step):
    """A linear layer."""

    def __init__(self, linear: Linear) -> None:
        self.linear = linear

    def parameters(self) -> list[nn.Parameter]:
        return list(self.linear.parameters())

    def forward(self, x_BH: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.linear(x_BH), None

    def backward(
        self, grad_BH: torch.Tensor, x_BH: torch.Tensor, y_BH: torch.Tensor, note: None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        of_bias = [] if self.linear.bias is None else [grad_BH.sum(dim=0)]
        return grad_BH @ self.linear.weight, [grad_BH.t() @ x_BH, *of_bias]


class _Curve(_Step):
    """Tanh or sigmoid by torch, whose vector instructions a compiled loop would not use."""

    def __init__(self, activation: nn.Module) -> None:
        self.activation = activation

    def forward(self, x_BH: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.activation(x_BH), None

    def backward(
        self, grad_BH: torch.Tensor, x_BH: torch.Tensor, y_BH: torch.Tensor, note: None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return _CURVES[type(self.activation)](grad_BH, y_BH), []


@dataclass(frozen=True)
class _Drawn:
    """How a batch was normalised, and what of it was dropped (see ``nfm.layer_kernels``)."""

    norm_4H: kernels.Array
    rows: float  # that mean and variance are of; 0 where they are not the batch's
    dropped: int
    seed: int


class _NormReluDropout(_Step):
    """Batch norm, ReLU and dropout, each if there is one, in compiled loops."""

    def __init__(self, norm: BatchNorm | None, relu: bool, dropout: Dropout | None) -> None:
        self.norm, self.relu, self.dropout = norm, relu, dropout

    def parameters(self) -> list[nn.Parameter]:
        return [] if self.norm is None else [self.norm.weight, self.norm.bias]

    def forward(self, x_BH: torch.Tensor) -> tuple[torch.Tensor, _Drawn | None]:
        dropped = self.dropout.dropped if self.dropout and self.dropout.training else 0
        if self.norm is None and not self.relu and not dropped:
            return x_BH, None
        norm_4H, rows = self._normaliser(x_BH)
        seed, y_BH = draw_seed() if dropped else 0, torch.empty_like(x_BH)
        kernels.forward(x_BH.numpy(), norm_4H, self.relu, dropped, seed, y_BH.numpy())
        return y_BH, _Drawn(norm_4H, rows, dropped, seed)

    def backward(
        self, grad_BH: torch.Tensor, x_BH: torch.Tensor, y_BH: torch.Tensor, note: _Drawn
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x, grad_x_BH = x_BH.numpy(), torch.empty_like(x_BH)
        grad_x, mask = grad_x_BH.numpy(), (self.relu, note.dropped, note.seed)
        sums = kernels.backward(grad_BH.numpy(), x, y_BH.numpy(), note.norm_4H, *mask, grad_x)
        if self.norm is None:
            return grad_x_BH, []
        bias_H, weight_H = torch.from_numpy(sums.astype(x.dtype)).chunk(2)
        total, rows = self._summed(sums, "backward"), max(note.rows, 1.0)
        kernels.through_statistics(grad_x, x, note.norm_4H, total, rows)
        return grad_x_BH, [weight_H, bias_H]

    def _normaliser(self, x_BH: torch.Tensor) -> tuple[kernels.Array, float]:
        norm = self.norm
        if norm is None:
            norm_4H = np.zeros((4, x_BH.shape[1]), x_BH.numpy().dtype)
            norm_4H[1] = 1
            return norm_4H, 0.0
        learnt = norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.EPS
        running = norm.running_mean.numpy(), norm.running_var.numpy()
        if not norm.training:
            return kernels.running_normaliser(*learnt, *running), 0.0
        sums = self._summed(kernels.column_sums(x_BH.numpy()), "forward")
        return kernels.normaliser(sums, *learnt, *running, norm.momentum), sums[-1]

    def _summed(self, sums: kernels.Array, direction: str) -> kernels.Array:
        """Column sums over the workers of batch norm; one alone does not make tensors of them."""
        if self.norm is None or self.norm.workers.size == 1:
            return sums
        return self.norm.sum(torch.from_numpy(sums), direction).numpy()


def _steps_of(layer: Layer) -> list[_Step]:
    """A layer as steps, without any that would do nothing."""
    if isinstance(layer, Linear):
        return [_Product(layer)]
    if isinstance(layer, HiddenLayer):
        return [*_steps_of(layer.linear), *_steps_of(layer.after)]
    norm, activation = layer.norm, layer.activation
    dropout = layer.dropout if layer.dropout.dropped else None
    if isinstance(activation, nn.ReLU | nn.Identity):
        relu = isinstance(activation, nn.ReLU)
        return [_NormReluDropout(norm, relu, dropout)] if norm or relu or dropout else []
    before = [_NormReluDropout(norm, False, None)] if norm else []
    after = [_NormReluDropout(None, False, dropout)] if dropout else []
    return [*before, _Curve(activation), *after]
