"""Factorization Machine of second order (Rendle, ICDM 2010).

Shapes: B = rows of a batch, K = embedding dimension.
"""

import torch

from nfm.lookup import POOLED
from nfm.table_model import TableModel


class Model(TableModel):
    """y = w0 + sum_i w_i x_i + sum_(i<j) <v_i, v_j> x_i x_j (Rendle 2010, eq. 1).

    The pairs are summed in linear time (ibid., lemma 3.1): the sum over the Bi-Interaction's
    factors.

    >>> from conf.training import ModelConfig
    >>> from nfm.collectives import Alone
    >>> from nfm.models import build_model
    >>> model = build_model(ModelConfig(name="fm", embedding_dim=2), [], Alone())
    >>> a, b, c = xv = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])  # x_i v_i of a row
    >>> pairs = a @ b + a @ c + b @ c
    >>> pooled_1K = (xv.sum(0, keepdim=True) ** 2 - (xv**2).sum(0, keepdim=True)) / 2
    >>> model(torch.tensor([0.25]), pooled_1K).item() == 0.25 + pairs.item()
    True
    """

    reads = POOLED

    def forward(self, linear_B: torch.Tensor, pooled_BK: torch.Tensor) -> torch.Tensor:
        """Predict.

        Args:
            linear_B: sum_i w_i x_i.
            pooled_BK: Bi-Interaction of the x_i v_i.

        Returns:
            Logits (or predicted values) [B].
        """
        return self.bias + linear_B + pooled_BK.sum(dim=1)
