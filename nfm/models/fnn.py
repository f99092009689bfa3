"""FM-supported Neural Network (Zhang, Du & Wang, ECIR 2016).

Shapes: B = rows of a batch, F = fields, K = embedding dimension, D = K + 1.
"""

from collections.abc import Sequence

import torch

from conf.manifest import FieldSpec
from conf.training import ModelConfig
from nfm.field_lookup import FIELDS
from nfm.table_model import Layers, TableModel


class Model(TableModel):
    """y = w0 + h^T MLP([z_1 .. z_F]) with z_f = sum over field f of x_i [v_i | w_i] (eq. 2-6).

    As published the z_f come from a trained Factorization Machine: begin from its bundle
    (``train.init_from``); without, they are learnt from their random start. The paper's first layer
    also sees the constant w0, which its bias stands for here.
    """

    reads = FIELDS

    def __init__(self, config: ModelConfig, fields: Sequence[FieldSpec], layers: Layers) -> None:
        super().__init__(config, fields, layers)
        self.hidden, self.prediction = layers.mlp(len(fields) * (config.embedding_dim + 1))
        self.deep_part = layers.chain(*self.hidden, self.prediction)

    def forward(self, fields_BFD: torch.Tensor) -> torch.Tensor:
        """Predict.

        Args:
            fields_BFD: Per field, sum_i x_i [v_i | w_i].

        Returns:
            Logits (or predicted values) [B].
        """
        deep_B1: torch.Tensor = self.deep_part(fields_BFD.flatten(start_dim=1))
        return self.bias + deep_B1.squeeze(-1)
