"""Logistic regression, for clicks by Richardson et al. (Predicting Clicks, WWW 2007).

With squared loss on a regression it is linear regression. The baseline below all models here: what
the others gain over it, they gain by interactions of features. The output is the logit, of which
``nfm.objective`` makes the probability.

Shapes: B = rows of a batch, K = factors, here 0.
"""

import torch

from nfm.lookup import POOLED
from nfm.table_model import TableModel


class Model(TableModel):
    """y = w0 + sum_i w_i x_i: the table holds nothing but the w_i.

    >>> from conf.training import ModelConfig
    >>> from nfm.collectives import Alone
    >>> from nfm.models import build_model
    >>> model = build_model(ModelConfig(name="lr"), [], Alone())
    >>> _ = model.bias.data.fill_(0.5)  # w0
    >>> model(torch.tensor([0.25, -1.0]), torch.empty(2, 0)).tolist()
    [0.75, -0.5]
    """

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
