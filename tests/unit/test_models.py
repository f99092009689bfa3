"""Each model against a transcription of its paper's equations: one row, one number at a time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from conf.manifest import FieldSpec
from conf.training import ModelConfig
from nfm.batch import field_of_slots
from nfm.collectives import Alone
from nfm.layers import NormActDropout
from nfm.models import build_model
from nfm.table_model import TableModel
from tests.data import plain_fields

Vector = list[float]
Activation = Callable[[float], float]
Naive = Callable[[TableModel, list[Vector], Vector, Activation], float]
FIELDS = plain_fields(30, 1, 3, 1)  # the second has three values a row
FIELD_OF_SLOT = [0, 1, 1, 1, 2]
FACTORS = 4


def dot(one: Vector, other: Vector) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def affine(linear: nn.Linear, x: Vector) -> Vector:
    biases = [0.0] * linear.out_features if linear.bias is None else linear.bias.tolist()
    return [b + dot(w, x) for w, b in zip(linear.weight.tolist(), biases, strict=True)]


def relu(value: float) -> float:
    return max(0.0, value)


def normal(after: NormActDropout, x: Vector) -> Vector:
    """Batch norm by what it has learnt (Ioffe & Szegedy 2015, alg. 2), if there is any."""
    norm = after.norm
    if norm is None:
        return x
    learnt = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    parts = zip(x, *(part.tolist() for part in learnt), strict=True)
    return [(v - mean) / math.sqrt(var + 1e-5) * w + b for v, mean, var, w, b in parts]


def mlp(model: TableModel, z: Vector, act: Activation) -> float:
    for layer in model.hidden:
        z = [act(value) for value in normal(layer.after, affine(layer.linear, z))]
    return dot(model.prediction.weight[0].tolist(), z)


def linear(row: list[Vector], x: Vector) -> float:
    return math.fsum(value * features[-1] for features, value in zip(row, x, strict=True))


def pooled(row: list[Vector], x: Vector) -> Vector:
    """He & Chua 2017, eq. 3: every pair by itself."""
    out = [0.0] * FACTORS
    for i in range(len(row)):
        for j in range(i + 1, len(row)):
            for k in range(FACTORS):
                out[k] += x[i] * row[i][k] * x[j] * row[j][k]
    return out


def by_field(row: list[Vector], x: Vector, width: int) -> Vector:
    """The weighted sum of each field's rows, side by side."""
    return [
        math.fsum(x[s] * row[s][d] for s, of in enumerate(FIELD_OF_SLOT) if of == field)
        for field in range(3)
        for d in range(width)
    ]


def lr(model: TableModel, row: list[Vector], x: Vector, act: Activation) -> float:
    return linear([features[-1:] for features in row], x)


def fm(model: TableModel, row: list[Vector], x: Vector, act: Activation) -> float:
    return linear(row, x) + math.fsum(pooled(row, x))


def nfm(model: TableModel, row: list[Vector], x: Vector, act: Activation) -> float:
    return linear(row, x) + mlp(model, normal(model.pooled, pooled(row, x)), act)


def fnn(model: TableModel, row: list[Vector], x: Vector, act: Activation) -> float:
    return mlp(model, by_field(row, x, FACTORS + 1), act)


def wide_deep(model: TableModel, row: list[Vector], x: Vector, act: Activation) -> float:
    return linear(row, x) + mlp(model, by_field(row, x, FACTORS), act)


def wide_only(model: TableModel, row: list[Vector], x: Vector, act: Activation) -> float:
    return linear(row, x) + mlp(model, by_field(row, x, FACTORS)[FACTORS:], act)


def deep_cross(model: TableModel, row: list[Vector], x: Vector, act: Activation) -> float:
    z = by_field(row, x, FACTORS)
    for unit in model.units:
        inner = normal(unit.inner.after, affine(unit.inner.linear, z))
        change = affine(unit.outer, [act(value) for value in inner])
        z = [act(a + b) for a, b in zip(z, change, strict=True)]
    return dot(model.prediction.weight[0].tolist(), z)


def build(fields: list[FieldSpec] = FIELDS, **config: object) -> TableModel:
    torch.manual_seed(0)
    settings = {"embedding_dim": FACTORS, "batch_norm": "none"} | config
    return build_model(ModelConfig.model_validate(settings), fields, Alone()).double().eval()


def read(model: TableModel, width: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Six rows of features, their values, and what the model reads of them."""
    rows = torch.randn(6, len(FIELD_OF_SLOT), width, dtype=torch.float64)
    x = torch.rand(6, len(FIELD_OF_SLOT), dtype=torch.float64)
    x[2, 3] = 0.0  # an empty slot
    index = torch.arange(x.numel()).view_as(x)
    found = model.reads.read(rows.flatten(end_dim=1), index, x, field_of_slots(FIELDS))
    return rows, x, list(found)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    ("naive", "config"),
    [
        (lr, {"name": "lr"}),
        (fm, {"name": "fm"}),
        (nfm, {"name": "nfm", "hidden": []}),
        (nfm, {"name": "nfm", "hidden": [8]}),
        (nfm, {"name": "nfm", "hidden": [8, 6, 3]}),
        (fnn, {"name": "fnn", "hidden": [8, 6]}),
        (wide_deep, {"name": "wide_deep", "hidden": [8, 6]}),
        (wide_only, {"name": "wide_deep", "hidden": [8], "wide_only": ["f0"]}),
        (deep_cross, {"name": "deep_cross", "hidden": [8, 5]}),
        (deep_cross, {"name": "deep_cross", "hidden": []}),
    ],
)
def test_a_model_against_its_equations(
    naive: Naive, config: dict[str, object], normalised: bool
) -> None:
    act: Activation = relu
    if normalised:
        config, act = {**config, "batch_norm": "synchronised", "activation": "tanh"}, math.tanh
    model = build(**config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases begin at 0
            parameter += 0.1 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            buffer.copy_(torch.rand_like(buffer) + name.endswith("var"))
    width = 1 if config["name"] == "lr" else FACTORS + 1
    rows, x, inputs = read(model, width)
    pairs = zip(rows.tolist(), x.tolist(), strict=True)
    expected = [model.bias.item() + naive(model, row, values, act) for row, values in pairs]
    torch.testing.assert_close(model(*inputs), torch.tensor(expected, dtype=torch.float64))


def test_nfm_without_hidden_layers_is_a_factorization_machine() -> None:
    """With a prediction vector of ones (He & Chua 2017, sec. 3.2)."""
    neural, machine = build(name="nfm", hidden=[]), build(name="fm")
    with torch.no_grad():
        neural.prediction.weight.fill_(1.0)
        neural.bias.fill_(0.3)
        machine.bias.fill_(0.3)
    _, _, inputs = read(neural, FACTORS + 1)
    torch.testing.assert_close(neural(*inputs), machine(*inputs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["nfm", "fnn", "wide_deep", "deep_cross"])
def test_dropout_and_batch_norm_work_in_training_only(name: str) -> None:
    dropout = [0.5, 0.2]
    model = build(name=name, hidden=[8, 4], dropout=dropout, batch_norm="synchronised").train()
    _, _, inputs = read(model, FACTORS + 1)
    assert not torch.equal(model(*inputs), model(*inputs))
    model.eval()
    torch.testing.assert_close(model(*inputs)[:1], model(*(part[:1] for part in inputs)))


def test_bi_dropout_drops_factors_of_the_pooled_vector() -> None:
    model = build(name="nfm", hidden=[], bi_dropout=0.75).train()
    with torch.no_grad():
        model.prediction.weight.copy_(torch.tensor([[1.0, 2.0, 4.0, 8.0]]))
    found = model(torch.zeros(10_000).double(), torch.ones(10_000, FACTORS).double()) / 4
    bits = torch.tensor([[int(value) >> k & 1 for k in range(FACTORS)] for value in found])
    torch.testing.assert_close(found, (bits @ torch.tensor([1, 2, 4, 8])).double())
    assert bits.double().mean(dim=0).tolist() == pytest.approx([0.25] * FACTORS, abs=0.02)


def test_running_statistics_follow_by_the_momentum() -> None:
    model = build(name="nfm", batch_norm="synchronised", batch_norm_momentum=0.3).train()
    _, _, inputs = read(model, FACTORS + 1)
    model(*inputs)
    torch.testing.assert_close(model.pooled.norm.running_mean, 0.3 * inputs[1].mean(dim=0))


def test_each_layer_has_its_own_dropout() -> None:
    model = build(name="nfm", hidden=[8, 4], dropout=[0.5, 0.0])
    shares = [layer.after.dropout.dropped / 2**32 for layer in model.hidden]
    assert shares == pytest.approx([0.5, 0.0])
    with pytest.raises(ValueError, match="dropout names 1 layers, hidden has 2"):
        ModelConfig(hidden=[8, 4], dropout=[0.5])
