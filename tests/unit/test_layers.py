"""Pooling, batch norm, activation and dropout, in plain torch and in compiled loops."""

import itertools

import numba
import pytest
import torch
from torch import nn

from nfm.chain import Chain
from nfm.collectives import Alone
from nfm.layers import BatchNorm, HiddenLayer, Linear, NormActDropout, bi_interaction

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, None: lambda x: x}
WIDTH = 5

both_ways = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
all_activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def layer(
    activation: str | None = None,
    dropout: float = 0.0,
    *,
    norm: bool = True,
    width: int = WIDTH,
    dtype: torch.dtype = torch.float64,
) -> NormActDropout:
    normaliser = BatchNorm(width, name="n", workers=Alone(), momentum=0.1) if norm else None
    made = NormActDropout(normaliser, activation, dropout).to(dtype)
    if norm:  # not the neutral values that they start with
        with torch.no_grad():
            made.norm.weight.uniform_(0.5, 2.0)
            made.norm.bias.normal_()
    return made


def mask_of(dropout: float, shape: tuple[int, int], *, compiled: bool, seed: int) -> torch.Tensor:
    """What dropout multiplies a batch with: 0, or 1 / (1 - p)."""
    torch.manual_seed(seed)
    drop = Chain([layer(None, dropout, norm=False)], compiled=compiled)
    return drop(torch.ones(shape).double())


def test_bi_interaction_is_the_sum_of_all_pairwise_products() -> None:
    xv = torch.randn(5, 7, 3, dtype=torch.float64)
    pairs = itertools.combinations(range(7), 2)
    expected = sum(xv[:, i] * xv[:, j] for i, j in pairs)
    torch.testing.assert_close(bi_interaction(xv), expected)


@both_ways
@all_activations
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_layer_equals_torchs_batch_norm_activation_and_mask(
    activation: str | None, dropout: float, compiled: bool
) -> None:
    ours = layer(activation, dropout)
    chain = Chain([ours], compiled=compiled)
    torchs = nn.BatchNorm1d(WIDTH, momentum=0.1).double()
    torchs.load_state_dict(ours.norm.state_dict(), strict=False)
    for seed in range(3):
        x = torch.randn(33, WIDTH, dtype=torch.float64) * 3 + 5
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        mask = mask_of(dropout, (33, WIDTH), compiled=compiled, seed=seed)
        torch.manual_seed(seed)
        y1, y2 = chain(x1), ACTIVATIONS[activation](torchs(x2)) * mask
        torch.testing.assert_close(y1, y2)
        weights = torch.randn_like(y1)
        (y1 * weights).sum().backward()
        (y2 * weights).sum().backward()
        torch.testing.assert_close(x1.grad, x2.grad)
    torch.testing.assert_close(ours.norm.weight.grad, torchs.weight.grad)
    torch.testing.assert_close(ours.norm.bias.grad, torchs.bias.grad)
    torch.testing.assert_close(ours.norm.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.norm.running_var, torchs.running_var)
    x = torch.randn(1, WIDTH, dtype=torch.float64)
    wanted = ACTIVATIONS[activation](torchs.eval()(x))
    ours.eval()
    torch.testing.assert_close(chain(x), wanted)
    with torch.inference_mode():
        torch.testing.assert_close(chain(x), wanted)


@both_ways
@all_activations
@pytest.mark.parametrize("norm", [True, False])
def test_gradient_by_finite_differences(activation: str | None, norm: bool, compiled: bool) -> None:
    made = layer(activation, 0.3, norm=norm)
    chain = Chain([made], compiled=compiled)

    def seeded(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return chain(x)

    torch.manual_seed(0)
    x = torch.randn(7, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(seeded, (x, *made.parameters()))


@all_activations
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 1, 2, 1000])
def test_compiled_equals_plain(
    activation: str | None, norm: bool, dtype: torch.dtype, rows: int
) -> None:
    torch.manual_seed(0)
    made = {c: layer(activation, 0.5, norm=norm, dtype=dtype) for c in (True, False)}
    made[True].load_state_dict(made[False].state_dict())
    x, weights = torch.randn(rows, WIDTH, dtype=dtype) + 2, torch.randn(rows, WIDTH, dtype=dtype)
    seen = {}
    for compiled, module in made.items():
        leaf = x.clone().requires_grad_()
        torch.manual_seed(1)
        y = Chain([module], compiled=compiled)(leaf)
        (y * weights).sum().backward()
        assert leaf.grad is not None
        seen[compiled] = [y, leaf.grad, *(p.grad for p in module.parameters())]
        seen[compiled] += list(module.buffers())
    assert all(torch.isfinite(tensor).all() for tensor in seen[True])
    for ours, plain in zip(seen[True], seen[False], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5) if (
            dtype is torch.float32
        ) else torch.testing.assert_close(ours, plain)


@both_ways
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_batch_norm_keeps_the_variance_of_values_far_from_zero(mean: float, compiled: bool) -> None:
    x = torch.randn(4096, 2) + mean
    norm = BatchNorm(2, name="n", workers=Alone(), momentum=0.1)
    y = Chain([NormActDropout(norm, None, 0.0)], compiled=compiled)(x)
    torch.testing.assert_close(y.var(dim=0, correction=0), torch.ones(2), atol=2e-3, rtol=0)


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    def run() -> list[torch.Tensor]:
        torch.manual_seed(0)
        made = layer("relu", 0.5, width=64, dtype=torch.float32)
        x = torch.randn(4097, 64, requires_grad=True)
        y = Chain([made], compiled=True)(x)
        (y * torch.randn_like(y)).sum().backward()
        assert x.grad is not None
        return [y, x.grad, *(p.grad for p in made.parameters()), *made.buffers()]

    threads = numba.get_num_threads()
    if threads == 1:
        pytest.skip("one core")
    try:
        several = run()
        numba.set_num_threads(1)
        alone = run()
    finally:
        numba.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(several, alone, strict=True))


@both_ways
@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("norm", [True, False])
def test_nan_stays_nan(activation: str | None, norm: bool, compiled: bool) -> None:
    made = layer(activation, 0.5, norm=norm)
    x = torch.randn(64, WIDTH, dtype=torch.float64)
    x[3, 1] = float("nan")
    x.requires_grad_()
    y = Chain([made], compiled=compiled)(x)
    y.sum().backward()
    assert y[3, 1].isnan()  # dropped or not
    assert not y[:, 0].isnan().any()
    if norm:
        assert x.grad is not None
        assert y[:, 1].isnan().all()
        assert x.grad[:, 1].isnan().all()


@both_ways
def test_layer_without_anything_to_do_is_the_identity(compiled: bool) -> None:
    x = torch.randn(3, WIDTH, dtype=torch.float64)
    for made in (layer(None, 0.0, norm=False), layer(None, 0.5, norm=False).eval()):
        with torch.no_grad():
            assert Chain([made], compiled=compiled)(x).data_ptr() == x.data_ptr()


@both_ways
@all_activations
@pytest.mark.parametrize("bias", [True, False])
def test_gradient_of_layers_one_after_the_other(
    activation: str | None, bias: bool, compiled: bool
) -> None:
    torch.manual_seed(0)
    layers = [layer(None, 0.3)]
    layers += [
        HiddenLayer(Linear(width, WIDTH, bias=bias).double(), layer(activation, 0.3, norm=not bias))
        for width in (WIDTH, WIDTH)
    ]
    layers.append(Linear(WIDTH, 2, bias=bias).double())
    chain = Chain(layers, compiled=compiled)

    def seeded(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return chain(x)

    x = torch.randn(7, WIDTH, dtype=torch.float64, requires_grad=True)
    learnt = [parameter for made in layers for parameter in made.parameters()]
    assert torch.autograd.gradcheck(seeded, (x, *learnt))


def test_both_implementations_drop_the_same_elements() -> None:
    for seed, (rows, width) in enumerate([(1, 1), (3, 7), (4096, 64), (70_000, 1)]):
        masks = [mask_of(0.5, (rows, width), compiled=c, seed=seed) for c in (True, False)]
        assert torch.equal(*masks)


def share_bounds(p: float, count: int, deviations: float = 5.0) -> tuple[float, float]:
    """Where the share of ``count`` independent drops must lie."""
    width = deviations * (p * (1 - p) / count) ** 0.5
    return p - width, p + width


@pytest.mark.parametrize("p", [0.01, 0.3, 0.8])
def test_dropout_drops_that_share_of_all_rows_and_columns_and_keeps_the_mean(p: float) -> None:
    rows, width = 4096, 64
    mask = mask_of(p, (rows, width), compiled=True, seed=0)
    torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / (1 - p)))
    dropped = (mask == 0).double()
    for share, count in (
        (dropped.mean().view(1), rows * width),
        (dropped.mean(dim=0), rows),
        (dropped.view(-1, 64, width).mean(dim=(1, 2)), 64 * width),
        (dropped.view(64, -1, width).mean(dim=0).flatten(), 64),
    ):
        low, high = share_bounds(p, count, deviations=5.0 if count > 64 else 7.0)
        assert low <= float(share.min())
        assert float(share.max()) <= high


def test_masks_of_elements_and_of_draws_are_independent() -> None:
    """Counts of equal elements, between shifted copies of a mask and between masks."""
    rows, width = 512, 64
    torch.manual_seed(0)
    made = Chain([layer(None, 0.5, norm=False)], compiled=True)
    ones = torch.ones(rows, width, dtype=torch.float64)
    draws = torch.stack([made(ones).flatten() for _ in range(40)]) != 0
    low, high = share_bounds(0.5, rows * width)
    for other in range(1, 40):
        assert low <= float((draws[0] == draws[other]).double().mean()) <= high
    for draw in draws[:10]:
        for shift in (1, 2, 3, 16, width - 1, width, width + 1, 2 * width, 32 * width):
            equal = (draw[shift:] == draw[:-shift]).double()
            low, high = share_bounds(0.5, len(equal))
            assert low <= float(equal.mean()) <= high


@both_ways
def test_dropout_follows_torchs_seed_and_works_in_training_only(compiled: bool) -> None:
    made, x = layer(None, 0.5, norm=False), torch.ones(64, 8).double()
    chain = Chain([made], compiled=compiled)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append([chain(x), chain(x)])
    assert torch.equal(masks[0][0], masks[1][0])
    assert torch.equal(masks[0][1], masks[1][1])
    assert not torch.equal(masks[0][0], masks[0][1])
    assert not torch.equal(masks[0][0], masks[2][0])
    made.eval()
    assert torch.equal(chain(x), x)
