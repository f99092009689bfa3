"""Neural Factorization Machine (He & Chua, SIGIR 2017).

Shapes: B = rows of a batch, K = embedding dimension.
"""

from collections.abc import Sequence

import torch

from conf.manifest import FieldSpec
from conf.training import ModelConfig
from nfm.lookup import POOLED
from nfm.table_model import Layers, TableModel


class Model(TableModel):
    """y = w0 + sum_i w_i x_i + h^T MLP(BiInteraction({x_i v_i})) (He & Chua 2017, eq. 2-7).

    Batch norm and dropout follow the pooling, and every hidden layer. Without hidden layers, batch
    norm and dropout, and with h = 1, it is the Factorization Machine.
    """

    reads = POOLED

    def __init__(self, config: ModelConfig, fields: Sequence[FieldSpec], layers: Layers) -> None:
        super().__init__(config, fields, layers)
        self.pooled = layers.after(config.embedding_dim, "norm.pooled", None, config.bi_dropout)
        self.hidden, self.prediction = layers.mlp(config.embedding_dim)
        self.deep_part = layers.chain(self.pooled, *self.hidden, self.prediction)

    def forward(self, linear_B: torch.Tensor, pooled_BK: torch.Tensor) -> torch.Tensor:
        """Predict.

        Args:
            linear_B: sum_i w_i x_i.
            pooled_BK: Bi-Interaction of the x_i v_i.

        Returns:
            Logits (or predicted values) [B].
        """
        deep_B1: torch.Tensor = self.deep_part(pooled_BK)
        return self.bias + linear_B + deep_B1.squeeze(-1)
