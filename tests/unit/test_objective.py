"""Losses, estimates and scores of each task and loss, by hand."""

import numpy as np
import pytest
import torch

from nfm.objective import Objective

OUTPUTS, LABELS = [-2.5, -0.25, 0.5, 3.0], [0.0, 1.0, 1.0, 0.0]
LOGISTIC = Objective("binary", "logistic")
SIGNED = Objective("binary", "squared")
BOUNDED = Objective("regression", "squared", (-1.0, 2.0))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (
            LOGISTIC,
            [np.log1p(np.exp(y if t == 0 else -y)) for y, t in zip(OUTPUTS, LABELS, strict=True)],
        ),
        (SIGNED, [1.5**2, 1.25**2, 0.5**2, 4.0**2]),
        (BOUNDED, [2.5**2, 1.25**2, 0.5**2, 3.0**2]),
    ],
)
def test_losses_and_their_gradient_by_differences(
    objective: Objective, expected: list[float]
) -> None:
    """Outputs beyond the bounds are not clipped in training: their gradient leads back."""
    output = torch.tensor(OUTPUTS, dtype=torch.float64, requires_grad=True)
    label = torch.tensor(LABELS, dtype=torch.float64)
    losses = objective.row_losses(output, label)
    assert losses.tolist() == pytest.approx(expected)
    losses.sum().backward()
    step = 1e-6
    with torch.no_grad():
        above, below = (objective.row_losses(output + h, label) for h in (step, -step))
    assert output.grad is not None
    assert output.grad.tolist() == pytest.approx(((above - below) / (2 * step)).tolist(), rel=1e-6)


def test_scores_by_hand() -> None:
    outputs = np.array(OUTPUTS, np.float32)
    assert LOGISTIC.scores(outputs) == pytest.approx(1 / (1 + np.exp(-outputs.astype(float))))
    assert SIGNED.scores(outputs).tolist() == [0.0, 0.375, 0.75, 1.0]
    assert SIGNED.estimates(outputs).tolist() == [-1.0, -0.25, 0.5, 1.0]
    assert BOUNDED.scores(outputs).tolist() == [-1.0, -0.25, 0.5, 2.0]
    assert LOGISTIC.scores(outputs).dtype == np.float64
