"""Wide & Deep (Cheng et al., DLRS 2016).

Shapes: B = rows of a batch, F = fields, E = fields of the deep part, K = embedding dimension,
D = K + 1.
"""

from collections.abc import Sequence

import torch

from conf.manifest import FieldSpec
from conf.training import ModelConfig
from nfm.field_lookup import FIELDS
from nfm.table_model import Layers, TableModel


class Model(TableModel):
    """y = w0 + sum_i w_i x_i + h^T MLP([e_1 .. e_E]) with e_f = sum of field f's x_i v_i (eq. 3).

    The wide part is linear in every field; crosses are fields of the configuration, and those named
    in ``model.wide_only`` stay out of the deep part, as the paper's do.
    """

    reads = FIELDS

    def __init__(self, config: ModelConfig, fields: Sequence[FieldSpec], layers: Layers) -> None:
        super().__init__(config, fields, layers)
        self.deep = [at for at, spec in enumerate(fields) if spec.name not in config.wide_only]
        self.hidden, self.prediction = layers.mlp(len(self.deep) * config.embedding_dim)
        self.deep_part = layers.chain(*self.hidden, self.prediction)

    def forward(self, fields_BFD: torch.Tensor) -> torch.Tensor:
        """Predict.

        Args:
            fields_BFD: Per field, sum_i x_i [v_i | w_i].

        Returns:
            Logits (or predicted values) [B].
        """
        embeddings_BEK = fields_BFD[:, self.deep, :-1]
        deep_B1: torch.Tensor = self.deep_part(embeddings_BEK.flatten(start_dim=1))
        return self.bias + fields_BFD[..., -1].sum(dim=1) + deep_B1.squeeze(-1)
