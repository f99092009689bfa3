"""Deep Crossing (Shan et al., KDD 2016).

Shapes: B = rows of a batch, F = fields, K = embedding dimension, D = K + 1, C = F * K.
"""

from collections.abc import Sequence

import torch
from torch import nn

from conf.manifest import FieldSpec
from conf.training import ModelConfig
from nfm.field_lookup import FIELDS
from nfm.layers import ACTIVATIONS, Linear
from nfm.table_model import Layers, TableModel, prediction


class ResidualUnit(nn.Module):
    """x -> act(x + W1 layer(x) + b1), where the inner layer may have another width (sec. 4.3)."""

    def __init__(self, inputs: int, depth: int, layers: Layers) -> None:
        super().__init__()
        self.inner = layers.hidden(inputs, depth)
        self.outer = Linear(layers.config.hidden[depth], inputs)
        nn.init.xavier_normal_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.change = layers.chain(self.inner, self.outer)
        self.activation = ACTIVATIONS[layers.config.activation]()

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        """Apply the unit; the width stays."""
        out: torch.Tensor = self.activation(x_BC + self.change(x_BC))
        return out


class Model(TableModel):
    """y = w0 + h^T units([e_1 .. e_F]) with e_f = sum over field f of x_i v_i.

    ``model.hidden`` holds the inner width of each residual unit. There is no linear part: the w_i
    stay 0. The paper rectifies each embedding, which is left out here as in He & Chua (2017), whose
    comparison this one repeats.
    """

    reads = FIELDS

    def __init__(self, config: ModelConfig, fields: Sequence[FieldSpec], layers: Layers) -> None:
        super().__init__(config, fields, layers)
        width = len(fields) * config.embedding_dim
        units = (ResidualUnit(width, depth, layers) for depth in range(len(config.hidden)))
        self.units, self.prediction = nn.Sequential(*units), prediction(width)

    def forward(self, fields_BFD: torch.Tensor) -> torch.Tensor:
        """Predict.

        Args:
            fields_BFD: Per field, sum_i x_i [v_i | w_i].

        Returns:
            Logits (or predicted values) [B].
        """
        crossed_BC = self.units(fields_BFD[..., :-1].flatten(start_dim=1))
        deep_B1: torch.Tensor = self.prediction(crossed_BC)
        return self.bias + deep_B1.squeeze(-1)
