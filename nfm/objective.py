"""What a model's output is fitted to, and what it says once it is.

| task, loss | output | fitted to | estimate | score |
| --- | --- | --- | --- | --- |
| binary, logistic | logit z | label | p = 1 / (1 + exp(-z)) | p |
| binary, squared | y | +1 for label 1, -1 for 0 | y, clipped to [-1, 1] | (1 + estimate) / 2 |
| regression, squared | y | label | y, clipped to the labels' range | the estimate |

The second line is the protocol of the NFM paper (He & Chua 2017, sec. 5.1, and their code, which
clips at evaluation). The range is that of the training rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from conf.manifest import Manifest
from conf.schema import Config

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Objective:
    """See above.

    Attributes:
        task: binary or regression.
        loss: logistic or squared.
        label_range: Of a regression: least and greatest label. The loss needs none.
    """

    task: str
    loss: str
    label_range: tuple[float, float] | None = None

    @classmethod
    def of(cls, config: Config, manifest: Manifest) -> "Objective":
        """The objective of a run on these features."""
        low_high = manifest.label_range
        return cls(config.task, config.loss, (low_high[0], low_high[1]) if low_high else None)

    @property
    def probabilistic(self) -> bool:
        """Whether estimates are probabilities."""
        return self.loss == "logistic"

    def row_losses(self, output_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        """Logistic loss of each row in nats, or its squared error."""
        if self.probabilistic:
            return F.binary_cross_entropy_with_logits(output_B, label_B, reduction="none")
        targets_B: torch.Tensor = self.targets(label_B)
        return (output_B - targets_B).square()

    def targets(self, labels: Any) -> Any:
        """What estimates are compared with; an array or tensor like the labels."""
        return 2 * labels - 1 if self._signed else labels

    def estimates(self, outputs: Array) -> Array:
        """Estimates of the targets; float64 [n]."""
        if self.probabilistic:
            return probability(outputs.astype(np.float64))
        clip = (-1.0, 1.0) if self._signed else self.label_range or (None, None)
        estimates: Array = outputs.astype(np.float64)
        return estimates if clip == (None, None) else np.clip(estimates, *clip)

    def scores(self, outputs: Array) -> Array:
        """What is published: in [0, 1] for a binary task, else the predicted value; float64 [n]."""
        estimates = self.estimates(outputs)
        return (1 + estimates) / 2 if self._signed else estimates

    @property
    def _signed(self) -> bool:
        return self.task == "binary" and self.loss == "squared"


def probability(logits: Array) -> Array:
    """The logistic function, without overflow.

    Example:
        >>> probability(np.array([0.0, -1000.0]))
        array([0.5, 0. ])
    """
    small = np.exp(-np.abs(logits))
    result: Array = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return result
