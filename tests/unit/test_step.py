"""The step on distinct rows against plain torch on the whole table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nfm.batch import Batch, field_of_slots
from nfm.collectives import Alone
from nfm.field_lookup import FIELDS
from nfm.kernels import group_ids
from nfm.lookup import POOLED, Lookup, Reading, Rows, Tensors, Upstream
from nfm.step import build_step
from tests.data import make_config, plain_fields

NUM_FEATURES, SLOTS, ROWS = 12, 4, 32
OF_ROWS = plain_fields(NUM_FEATURES, 1, 2, 1)
FIELD_S = field_of_slots(OF_ROWS)
MODELS = ["lr", "fm", "nfm", "fnn", "wide_deep", "deep_cross"]


def random_batch(
    generator: torch.Generator,
    num_features: int = NUM_FEATURES,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Every id occurs, so that lazy and full optimisers must agree; some slots are empty."""
    ids = torch.randint(num_features, (ROWS, SLOTS), generator=generator, dtype=torch.int32)
    ids.view(-1)[:num_features] = torch.arange(num_features, dtype=torch.int32)
    x = torch.rand(ROWS, SLOTS, dtype=dtype, generator=generator) + 0.1
    x[-4:, -1] = 0.0
    label = torch.randint(2, (ROWS,), generator=generator).to(dtype)
    return Batch(ids, x, label)


@pytest.mark.parametrize(
    ("model", "optimizer", "loss"),
    [(model, "adagrad", "logistic") for model in MODELS]
    + [("nfm", "adam", "logistic"), ("nfm", "adagrad", "squared"), ("fnn", "adam", "squared")],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_step_equals_plain_torch_on_the_whole_table(
    tmp_path: Path, model: str, optimizer: str, loss: str, compiled: bool
) -> None:
    config = make_config(
        tmp_path,
        f"model.name={model}",
        f"train.optimizer.name={optimizer}",
        "train.optimizer.learning_rate=0.05",
        "model.dropout=0.0",
        "train.l1={embedding: 1e-3, linear: 2e-3, dense: 3e-3}",
        "train.l2={embedding: 1e-2, linear: 2e-2, dense: 3e-2}",
        "train.early_stopping.metric=rmse",
        f"train.loss={loss}",
    )
    ours = build_step(config, OF_ROWS, Alone(), dtype=torch.float64, compiled=compiled)
    plain = build_step(config, OF_ROWS, Alone(), dtype=torch.float64)
    table = plain.table.weight_RD.clone().requires_grad_()
    parameters = [table, *plain.model.parameters()]
    if optimizer == "adagrad":
        rule: torch.optim.Optimizer = torch.optim.Adagrad(
            parameters, lr=0.05, initial_accumulator_value=0.1
        )
    else:
        rule = torch.optim.Adam(parameters, lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for number in range(5):
        batch = random_batch(generator)
        weight_B = torch.rand(ROWS, dtype=torch.float64, generator=generator)
        if number % 2:
            batch = replace(batch, weight_B=weight_B)
        else:
            weight_B = torch.ones_like(weight_B)
        all_losses = ours(batch, ROWS).loss
        rule.zero_grad()
        read = plain.model.reads.read(table, batch.ids_BS, batch.x_BS, FIELD_S)
        logits = plain.model(*read)
        if loss == "logistic":
            data = F.binary_cross_entropy_with_logits(logits, batch.label_B, weight_B)
        else:
            target = torch.where(batch.label_B == 1, 1.0, -1.0)
            data = (weight_B * (logits - target) ** 2).mean()
        objective = data
        for row, x in zip(batch.ids_BS, batch.x_BS, strict=True):
            present = table[row[x != 0]]
            v, w = present[:, :-1], present[:, -1]
            objective = objective + (0.5e-2 * v.square().sum() + 1e-3 * v.abs().sum()) / ROWS
            objective = objective + (1e-2 * w.square().sum() + 2e-3 * w.abs().sum()) / ROWS
        for p in plain.model.parameters():
            if p.ndim > 1:
                objective = objective + 1.5e-2 * p.square().sum() + 3e-3 * p.abs().sum()
        objective.backward()
        rule.step()
        assert all_losses == pytest.approx(data.item() * ROWS)
    torch.testing.assert_close(ours.table.weight_RD, table.detach())
    for mine, theirs in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_weight_is_a_number_of_copies(tmp_path: Path, compiled: bool) -> None:
    config = make_config(tmp_path, "model.dropout=0.0", "model.batch_norm=none")
    weighted, copied = (
        build_step(config, OF_ROWS, Alone(), dtype=torch.float64, compiled=compiled)
        for _ in range(2)
    )
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        batch = random_batch(generator)
        times_B = torch.randint(4, (ROWS,), generator=generator)
        columns = (batch.ids_BS, batch.x_BS, batch.label_B)
        copies = Batch(*(column.repeat_interleave(times_B, dim=0) for column in columns))
        loss = weighted(replace(batch, weight_B=times_B.float()), ROWS).loss
        assert loss == pytest.approx(copied(copies, ROWS).loss)
    torch.testing.assert_close(weighted.table.weight_RD, copied.table.weight_RD)
    pairs = zip(weighted.model.parameters(), copied.model.parameters(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
@pytest.mark.parametrize("compiled", [True, False])
def test_step_leaves_untouched_rows_alone(tmp_path: Path, optimizer: str, compiled: bool) -> None:
    config = make_config(tmp_path, f"train.optimizer.name={optimizer}")
    fields = plain_fields(NUM_FEATURES + 5, 1, 2, 1)
    step = build_step(config, fields, Alone(), dtype=torch.float64, compiled=compiled)
    before = step.table.weight_RD.clone()
    step(random_batch(torch.Generator().manual_seed(1)), ROWS)
    assert torch.equal(step.table.weight_RD[NUM_FEATURES:], before[NUM_FEATURES:])
    assert not torch.any(step.table.weight_RD[:NUM_FEATURES] == before[:NUM_FEATURES])


LOOKUPS = [
    pytest.param(reading, made, id=made.__name__)
    for reading in (POOLED, FIELDS)
    for made in (reading.compiled, reading.plain)
]


@pytest.mark.parametrize(("reading", "made"), LOOKUPS)
def test_the_gradient_of_a_lookup_by_autograd(reading: Reading, made: type[Lookup]) -> None:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(NUM_FEATURES + 3, 6, dtype=torch.float64, generator=generator)
    batch = random_batch(generator)
    leaf = table.clone().requires_grad_()
    expected = reading.read(leaf, batch.ids_BS, batch.x_BS, FIELD_S)
    lookup = made(FIELD_S)
    found = lookup.forward(Rows(table, batch.ids_BS, None), batch)
    torch.testing.assert_close(found, expected)
    weights = tuple(torch.randn_like(part) for part in expected)
    sum((part * weight).sum() for part, weight in zip(expected, weights, strict=True)).backward()
    zero = torch.zeros(6, dtype=torch.float64)
    grad = lookup.gradient(Upstream(weights, zero, zero))
    ids = batch.groups.ids_U
    assert sorted(ids.tolist()) == list(range(NUM_FEATURES))
    torch.testing.assert_close(torch.zeros_like(table).index_add(0, ids, grad), leaf.grad)


class Looked(torch.autograd.Function):
    """A lookup as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, lookup: Lookup, batch: Batch) -> Tensors:
        ctx.lookup, ctx.batch, ctx.table = lookup, batch, table.detach()
        read = lookup.forward(Rows(ctx.table, batch.ids_BS, None), batch)
        return tuple(part.detach() for part in read)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        zero = torch.zeros(ctx.table.shape[1], dtype=ctx.table.dtype)
        grad = ctx.lookup.gradient(Upstream(grads, zero, zero))
        ids = ctx.batch.groups.ids_U
        return torch.zeros_like(ctx.table).index_add(0, ids, grad), None, None


@pytest.mark.parametrize(("reading", "made"), LOOKUPS)
def test_the_gradient_of_a_lookup_by_finite_differences(
    reading: Reading, made: type[Lookup]
) -> None:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(NUM_FEATURES, 4, dtype=torch.float64, generator=generator)
    batch = random_batch(generator)
    assert torch.autograd.gradcheck(
        lambda weight: Looked.apply(weight, made(FIELD_S), batch), table.requires_grad_()
    )


@pytest.mark.parametrize(("reading", "made"), LOOKUPS)
def test_the_gradient_of_a_first_batch_without_rows(reading: Reading, made: type[Lookup]) -> None:
    """Other workers' gradients are joined with it: so it must be of their type."""
    batch = Batch.empty(SLOTS)
    lookup = made(FIELD_S)
    read = lookup.forward(Rows(torch.ones(4, 6), batch.ids_BS, None), batch)
    zero = torch.zeros(6)
    grad = lookup.gradient(Upstream(tuple(part.detach() for part in read), zero, zero))
    assert (grad.shape, grad.dtype) == ((0, 6), torch.float32)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 2**31 - 1), max_size=200), st.integers(1, 300))
def test_group_ids_against_a_dictionary(ids: list[int], owners: int) -> None:
    expected: dict[int, list[int]] = {}
    for position, value in enumerate(ids):
        expected.setdefault(value, []).append(position)
    distinct, start, positions, inverse = group_ids(np.array(ids, dtype=np.int32), owners)
    found = {
        int(value): positions[start[u] : start[u + 1]].tolist() for u, value in enumerate(distinct)
    }
    assert found == expected
    assert list(found) == sorted(expected, key=lambda value: value % owners)
    assert distinct[inverse].tolist() == ids
