"""Logistic regression, or linear regression: the baseline without interactions.

Shapes: B = rows of a batch, K = factors, here 0.
"""

import torch

from nfm.lookup import POOLED
from nfm.table_model import TableModel


class Model(TableModel):
    """y = w0 + sum_i w_i x_i: the table holds nothing but the w_i."""

    reads = POOLED

    def forward(self, linear_B: torch.Tensor, pooled_BK: torch.Tensor) -> torch.Tensor:
        """Predict.

        Args:
            linear_B: sum_i w_i x_i.
            pooled_BK: Of no factors.

        Returns:
            Logits (or predicted values) [B].
        """
        return self.bias + linear_B
