"""The step on distinct rows against plain torch on the whole table."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from conf.training import ModelConfig
from nfm.batch import Batch, field_of_slots
from nfm.checkpoint import table_tensors
from nfm.collectives import Alone
from nfm.field_lookup import FIELDS
from nfm.kernels import group_ids
from nfm.lookup import POOLED, Lookup, Reading, Rows, Tensors, Upstream
from nfm.row_optimizers import state_per_weight
from nfm.step import build_step
from tests.data import OPTIMIZERS, make_config, plain_fields

NUM_FEATURES, SLOTS, ROWS = 12, 4, 32
OF_ROWS = plain_fields(NUM_FEATURES, 1, 2, 1)
FIELD_S = field_of_slots(OF_ROWS)
MODELS = list(get_args(ModelConfig.model_fields["name"].annotation))


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


RATE, EMBEDDING_RATE, DECAY, CLIP_NORM, ACCUMULATOR = 0.05, 0.02, 0.1, 9.0, 0.03
RECIPE = (
    f"train.optimizer.embedding_learning_rate={EMBEDDING_RATE}",
    f"train.optimizer.weight_decay={DECAY}",
    f"train.optimizer.clip_norm={CLIP_NORM}",
    f"train.optimizer.initial_accumulator={ACCUMULATOR}",
)


def plain_rule(
    optimizer: str, table: torch.Tensor, model: nn.Module, recipe: bool
) -> torch.optim.Optimizer:
    """What torch has for it: groups of the table, of the matrices, which decay, and of the rest."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": [table], "lr": EMBEDDING_RATE if recipe else RATE, "weight_decay": 0.0},
        {"params": matrices, "lr": RATE, "weight_decay": 0.0},
        {"params": vectors, "lr": RATE, "weight_decay": 0.0},
    ]
    if optimizer == "adam":
        groups[1]["weight_decay"] = DECAY * recipe
        return torch.optim.AdamW(groups)
    if optimizer == "adagrad":
        begin = ACCUMULATOR if recipe else 0.1
        return torch.optim.Adagrad(groups, initial_accumulator_value=begin)
    return torch.optim.SGD(groups, momentum=0.9 if optimizer == "momentum" else 0.0)


def plain_objective(
    logits_B: torch.Tensor, table: torch.Tensor, model: nn.Module, batch: Batch, loss: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean weighted loss of a row, and the same with the penalties of the test below."""
    weight_B = torch.ones_like(batch.label_B) if batch.weight_B is None else batch.weight_B
    if loss == "logistic":
        data = F.binary_cross_entropy_with_logits(logits_B, batch.label_B, weight_B)
    else:
        target_B = torch.where(batch.label_B == 1, 1.0, -1.0)
        data = (weight_B * (logits_B - target_B) ** 2).mean()
    objective = data
    for row, x in zip(batch.ids_BS, batch.x_BS, strict=True):
        present = table[row[x != 0]]
        v, w = present[:, :-1], present[:, -1]
        objective = objective + (0.5e-2 * v.square().sum() + 1e-3 * v.abs().sum()) / ROWS
        objective = objective + (1e-2 * w.square().sum() + 2e-3 * w.abs().sum()) / ROWS
    for p in model.parameters():
        if p.ndim > 1:
            objective = objective + 1.5e-2 * p.square().sum() + 3e-3 * p.abs().sum()
    return data, objective


@pytest.mark.parametrize(
    ("model", "optimizer", "loss", "recipe"),
    [
        *(("nfm", optimizer, "squared", False) for optimizer in OPTIMIZERS),
        *(("nfm", optimizer, "logistic", True) for optimizer in OPTIMIZERS),
        *((model, "adagrad", "logistic", False) for model in MODELS),
        *(("fnn", optimizer, "logistic", True) for optimizer in OPTIMIZERS),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_step_equals_plain_torch_on_the_whole_table(
    tmp_path: Path, model: str, optimizer: str, loss: str, compiled: bool, recipe: bool
) -> None:
    """With the recipe also: two rates, their factor, decoupled decay, clip_grad_norm_, a sum."""
    config = make_config(
        tmp_path,
        f"model.name={model}",
        *OPTIMIZERS[optimizer],
        f"train.optimizer.learning_rate={RATE}",
        *(RECIPE if recipe else ()),
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
    rule = plain_rule(optimizer, table, plain.model, recipe)
    rates = [group["lr"] for group in rule.param_groups]
    generator, norms = torch.Generator().manual_seed(0), []
    for number in range(5):
        batch = random_batch(generator)
        weight_B = torch.rand(ROWS, dtype=torch.float64, generator=generator)
        if number % 2:
            batch = replace(batch, weight_B=weight_B)
        factor = 1 / (1 + number) if recipe else 1.0
        all_losses = ours(batch, ROWS, factor=factor).loss
        rule.zero_grad()
        read = plain.model.reads.read(table, batch.ids_BS, batch.x_BS, FIELD_S)
        logits_B = plain.model(*read)
        data, objective = plain_objective(logits_B, table, plain.model, batch, loss)
        objective.backward()
        for group, rate in zip(rule.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        if recipe:
            norms.append(float(nn.utils.clip_grad_norm_(parameters, CLIP_NORM)))
            if optimizer != "adam":  # whose AdamW does it
                for p in rule.param_groups[1]["params"]:
                    p.data *= 1 - RATE * factor * DECAY
        rule.step()
        assert all_losses == pytest.approx(data.item() * ROWS)
    assert not recipe or min(norms) < CLIP_NORM < max(norms), norms
    torch.testing.assert_close(ours.table.weight_RD, table.detach())
    for mine, theirs in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_embeddings_begin_with_the_deviation_that_is_asked_for(tmp_path: Path) -> None:
    config = make_config(tmp_path, "model.embedding_std=0.3")
    rows_VD = build_step(config, plain_fields(20_000, 1), Alone()).table.weight_RD
    factors_VK, linear_V = rows_VD[:, :-1], rows_VD[:, -1]
    assert factors_VK.mean().item() == pytest.approx(0.0, abs=0.005)
    assert factors_VK.std().item() == pytest.approx(0.3, abs=0.005)
    assert torch.equal(linear_V, torch.zeros(20_000))


@pytest.mark.parametrize("compiled", [True, False])
def test_the_strength_of_a_penalty_does_not_depend_on_the_batch_size(
    tmp_path: Path, compiled: bool
) -> None:
    """The same rows several times in a batch give the step that they give once."""
    config = make_config(
        tmp_path,
        "model.dropout=0.0",
        "train.l1={embedding: 1e-2, linear: 1e-2, dense: 1e-2}",
        "train.l2={embedding: 1e-1, linear: 1e-1, dense: 1e-1}",
        "model.batch_norm=none",
    )
    once, thrice = (
        build_step(config, OF_ROWS, Alone(), dtype=torch.float64, compiled=compiled)
        for _ in range(2)
    )
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        batch = random_batch(generator)
        columns = (batch.ids_BS, batch.x_BS, batch.label_B)
        once(batch, ROWS)
        thrice(Batch(*(torch.cat([column] * 3) for column in columns)), 3 * ROWS)
    torch.testing.assert_close(thrice.table.weight_RD, once.table.weight_RD)
    pairs = zip(thrice.model.parameters(), once.model.parameters(), strict=True)
    for mine, theirs in pairs:
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


@pytest.mark.parametrize("clip_norm", ["1.0", "null"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_gradient_that_is_not_finite_changes_nothing(
    tmp_path: Path, compiled: bool, clip_norm: str
) -> None:
    """Loss and predictions are finite, but the gradient of a linear weight is beyond float32."""
    config = make_config(
        tmp_path,
        "task=regression",
        "train.early_stopping.metric=rmse",
        f"train.optimizer.clip_norm={clip_norm}",
        "model.embedding_std=0.0",
        "model.batch_norm=none",
    )
    step = build_step(config, OF_ROWS, Alone(), compiled=compiled)
    before = {name: tensor.clone() for name, tensor in table_tensors(step).items()}
    batch = random_batch(torch.Generator().manual_seed(9), dtype=torch.float32)
    batch.x_BS[0, 0], batch.label_B[0] = 1e38, 1e6
    assert not step(batch, ROWS).finite
    for name, tensor in table_tensors(step).items():
        assert torch.equal(tensor, before[name]), name
    batch.x_BS[0, 0] = 1e12
    assert step(batch, ROWS).finite
    for name, tensor in table_tensors(step).items():
        assert tensor.isfinite().all(), name
        assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("compiled", [True, False])
def test_step_leaves_untouched_rows_alone(tmp_path: Path, optimizer: str, compiled: bool) -> None:
    config = make_config(tmp_path, *OPTIMIZERS[optimizer])
    fields = plain_fields(NUM_FEATURES + 5, 1, 2, 1)
    step = build_step(config, fields, Alone(), dtype=torch.float64, compiled=compiled)
    before = step.table.weight_RD.clone()
    batch = random_batch(torch.Generator().manual_seed(1))
    step(batch, ROWS)
    after = table_tensors(step)
    first = {name: tensor.clone() for name, tensor in after.items()}
    assert torch.equal(first["table.weight"][NUM_FEATURES:], before[NUM_FEATURES:])
    assert not torch.any(first["table.weight"][:NUM_FEATURES] == before[:NUM_FEATURES])
    step(replace(batch, ids_BS=batch.ids_BS % 4), ROWS)  # lazy: the others' moments stay too
    for name, tensor in first.items():
        assert torch.equal(after[name][4:], tensor[4:]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_state_of_a_row_has_the_size_that_placement_counts(
    tmp_path: Path, optimizer: str
) -> None:
    config = make_config(tmp_path, *OPTIMIZERS[optimizer])
    table = build_step(config, OF_ROWS, Alone()).table
    kept = sum(tensor.numel() for tensor in table.optimizer.state.values() if tensor.ndim)
    assert kept == state_per_weight(config.train.optimizer) * table.weight_RD.numel()


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
@example([*range(0, 2**31, 2**19), *range(3000)], 3)  # more than the first hash table has room for
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
