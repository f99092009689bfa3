import itertools

import pytest
import torch
from torch import nn

from nfm.collectives import Alone
from nfm.layers import BatchNorm, Dropout, bi_interaction


def test_bi_interaction_is_the_sum_of_all_pairwise_products() -> None:
    xv = torch.randn(5, 7, 3, dtype=torch.float64)
    pairs = itertools.combinations(range(7), 2)
    expected = sum(xv[:, i] * xv[:, j] for i, j in pairs)
    torch.testing.assert_close(bi_interaction(xv), expected)


def test_batch_norm_equals_torchs_in_training_and_after() -> None:
    ours = BatchNorm(4, name="n", workers=Alone(), momentum=0.1).double()
    torchs = nn.BatchNorm1d(4, momentum=0.1).double()
    for _ in range(3):
        x = torch.randn(6, 4, dtype=torch.float64) * 3 + 5
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        y1, y2 = ours(x1), torchs(x2)
        torch.testing.assert_close(y1, y2)
        weights = torch.randn_like(y1)
        (y1 * weights).sum().backward()
        (y2 * weights).sum().backward()
        torch.testing.assert_close(x1.grad, x2.grad)
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    x = torch.randn(1, 4, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x))


def test_batch_norm_gradient_by_finite_differences() -> None:
    norm = BatchNorm(3, name="n", workers=Alone(), momentum=0.1).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_batch_norm_keeps_the_variance_of_values_far_from_zero(mean: float) -> None:
    x = torch.randn(4096, 2) + mean
    y = BatchNorm(2, name="n", workers=Alone(), momentum=0.1)(x)
    torch.testing.assert_close(y.var(dim=0, correction=0), torch.ones(2), atol=2e-3, rtol=0)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_dropout_drops_that_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    x = torch.full((1000, 64), 3.0, requires_grad=True)
    y = Dropout(p)(x)
    kept = y != 0
    # four standard deviations of a share of 64,000
    assert float((~kept).double().mean()) == pytest.approx(p, abs=0.008)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 3 / (1 - p)), rtol=1e-4, atol=0)
    columns = (~kept).double().mean(dim=0)
    assert float(columns.min()) > p - 0.08
    assert float(columns.max()) < p + 0.08
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / 3)


def test_dropout_follows_torchs_seed_and_works_in_training_only() -> None:
    layer, x = Dropout(0.5), torch.ones(64, 8)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append([layer(x), layer(x)])
    assert torch.equal(masks[0][0], masks[1][0])
    assert torch.equal(masks[0][1], masks[1][1])
    assert not torch.equal(masks[0][0], masks[0][1])
    assert not torch.equal(masks[0][0], masks[2][0])
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
