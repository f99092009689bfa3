"""What the models are built of."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from conf.manifest import FieldSpec
from conf.training import ModelConfig
from nfm.chain import Chain, Layer
from nfm.collectives import Alone, Collectives
from nfm.layers import BatchNorm, HiddenLayer, Linear, NormActDropout
from nfm.lookup import Reading


class TableModel(nn.Module):
    """The dense part of a model; what it reads comes from the embedding table (``nfm.table``).

    A module of ``nfm.models`` holds one, as its class ``Model``; its ``forward`` takes the tensors
    that were read, and returns logits (or predicted values) [B].

    Args:
        config: Sizes and rates.
        fields: What the rows consist of.
        layers: Makes the layers.

    Attributes:
        reads: What it reads of the table.
        bias: w0.
        deep: Positions of the fields that the layers see, in their order.
    """

    reads: ClassVar[Reading]
    deep: list[int]

    def __init__(self, config: ModelConfig, fields: Sequence[FieldSpec], layers: "Layers") -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.deep = list(range(len(fields)))


class Layers:
    """Makes the layers of one model.

    Args:
        config: Sizes and rates.
        workers: Who batch norm sums with.
        compiled: Whether they run in compiled loops (CPU only), or plain torch.
    """

    def __init__(self, config: ModelConfig, workers: Collectives, *, compiled: bool) -> None:
        self.config, self.compiled = config, compiled
        self.normalised = config.batch_norm != "none"
        self.together = workers if config.batch_norm == "synchronised" else Alone()

    def after(
        self, width: int, name: str, activation: str | None, dropout: float
    ) -> NormActDropout:
        """Batch norm, activation and dropout, each if it is wanted.

        Args:
            width: Of the vectors.
            name: Of the batch norm's collectives; unique in a model.
            activation: A key of ``nfm.layers.ACTIVATIONS``, if there is one.
            dropout: Probability of dropping an element.
        """
        momentum = self.config.batch_norm_momentum
        norm = BatchNorm(width, name=name, workers=self.together, momentum=momentum)
        return NormActDropout(norm if self.normalised else None, activation, dropout)

    def hidden(self, inputs: int, depth: int) -> HiddenLayer:
        """The layer number ``depth`` of ``model.hidden``, on vectors of width ``inputs``."""
        outputs = self.config.hidden[depth]
        # Batch norm takes the mean away, and a bias with it.
        linear = Linear(inputs, outputs, bias=not self.normalised)
        activation, dropout = self.config.activation, self.config.dropouts[depth]
        return HiddenLayer(linear, self.after(outputs, f"norm.hidden{depth}", activation, dropout))

    def mlp(self, inputs: int) -> tuple[nn.Sequential, Linear]:
        """All hidden layers, and the linear prediction [B, 1] without a bias that follows them."""
        widths = [inputs, *self.config.hidden]
        hidden = (self.hidden(width, depth) for depth, width in enumerate(widths[:-1]))
        return nn.Sequential(*hidden), prediction(widths[-1])

    def chain(self, *layers: Layer) -> Chain:
        """Layers that follow each other without anything between."""
        return Chain(layers, compiled=self.compiled)


def prediction(inputs: int) -> Linear:
    """The last layer, without a bias: the model has one of its own."""
    made = Linear(inputs, 1, bias=False)
    nn.init.xavier_normal_(made.weight)
    return made
