"""Neural Factorization Machine (He & Chua, SIGIR 2017).

Shapes: B = rows of a batch, K = embedding dimension.
"""

import torch
from torch import nn

from conf.training import ModelConfig
from nfm.collectives import Alone, Collectives
from nfm.layers import BatchNorm, HiddenLayer, NormActDropout


class NFM(nn.Module):
    """y = w0 + sum_i w_i x_i + h^T MLP(BiInteraction({x_i v_i})) (He & Chua 2017, eq. 2-7).

    Batch norm and dropout follow the pooling, and every hidden layer.

    Args:
        config: Sizes and rates.
        workers: Who batch norm sums with.
        compiled: Whether compiled loops train it (CPU only), or plain torch.
    """

    def __init__(self, config: ModelConfig, workers: Collectives, *, compiled: bool) -> None:
        super().__init__()
        normalised = config.batch_norm != "none"
        together = workers if config.batch_norm == "synchronised" else Alone()

        def after(width: int, name: str, activation: str | None, dropout: float) -> NormActDropout:
            momentum = config.batch_norm_momentum
            norm = BatchNorm(width, name=name, workers=together, momentum=momentum)
            return NormActDropout(
                norm if normalised else None, activation, dropout, compiled=compiled
            )

        self.bias = nn.Parameter(torch.zeros(1))
        self.pooled = after(config.embedding_dim, "norm.pooled", None, config.bi_dropout)
        widths = [config.embedding_dim, *config.hidden]
        self.hidden = nn.Sequential(
            *(
                HiddenLayer(
                    # Batch norm takes the mean away, and a bias with it.
                    nn.Linear(inputs, outputs, bias=not normalised),
                    after(outputs, f"norm.hidden{depth}", config.activation, config.dropout),
                )
                for depth, (inputs, outputs) in enumerate(zip(widths, config.hidden, strict=False))
            )
        )
        self.prediction = nn.Linear(widths[-1], 1, bias=False)
        nn.init.xavier_normal_(self.prediction.weight)

    def forward(self, linear_B: torch.Tensor, pooled_BK: torch.Tensor) -> torch.Tensor:
        """Predict from what ``nfm.lookup`` reads of the table.

        Args:
            linear_B: sum_i w_i x_i.
            pooled_BK: Bi-Interaction of the x_i v_i.

        Returns:
            Logits (or predicted values) [B].
        """
        deep_B1: torch.Tensor = self.prediction(self.hidden(self.pooled(pooled_BK)))
        return self.bias + linear_B + deep_B1.squeeze(-1)
