"""The model against a transcription of the paper's equations, one row and one pair at a time."""

import math

import torch

from conf.training import ModelConfig
from nfm.collectives import Alone
from nfm.lookup import read_rows
from nfm.models import build_model
from nfm.models.nfm import NFM


def naive_nfm(model: NFM, rows: torch.Tensor, x: torch.Tensor) -> list[float]:
    """He & Chua 2017, eq. 2, 3 and 7, without batch norm."""
    predictions = []
    for row, values in zip(rows.tolist(), x.tolist(), strict=True):
        factors = len(row[0]) - 1
        pooled = [0.0] * factors
        for i in range(len(row)):
            for j in range(i + 1, len(row)):
                for k in range(factors):
                    pooled[k] += values[i] * row[i][k] * values[j] * row[j][k]
        z = pooled
        for layer in model.hidden:
            weight, bias = layer.linear.weight.tolist(), layer.linear.bias.tolist()
            z = [
                max(0.0, b + math.fsum(w * v for w, v in zip(line, z, strict=True)))
                for line, b in zip(weight, bias, strict=True)
            ]
        deep = math.fsum(h * v for h, v in zip(model.prediction.weight[0].tolist(), z, strict=True))
        linear = math.fsum(v * r[-1] for v, r in zip(values, row, strict=True))
        predictions.append(model.bias.item() + linear + deep)
    return predictions


def read(rows: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model reads of a table that holds just these rows."""
    return read_rows(rows.flatten(end_dim=1), torch.arange(x.numel()).view_as(x), x)


def check(hidden: list[int]) -> None:
    torch.manual_seed(0)
    config = ModelConfig(embedding_dim=4, hidden=hidden, batch_norm="none")
    model = build_model(config, Alone()).double().eval()
    with torch.no_grad():
        model.bias.fill_(0.3)
    rows = torch.randn(6, 5, 5, dtype=torch.float64)
    x = torch.rand(6, 5, dtype=torch.float64)
    x[2, 3] = 0.0  # an empty slot
    expected = torch.tensor(naive_nfm(model, rows, x), dtype=torch.float64)
    torch.testing.assert_close(model(*read(rows, x)), expected)


def test_nfm_without_hidden_layers() -> None:
    check(hidden=[])


def test_nfm_with_one_and_with_three_hidden_layers() -> None:
    check(hidden=[8])
    check(hidden=[8, 6, 3])


def test_dropout_and_batch_norm_work_in_training_only() -> None:
    config = ModelConfig(embedding_dim=4, hidden=[8], bi_dropout=0.5, dropout=0.5)
    model = build_model(config, Alone())
    inputs = read(torch.randn(64, 5, 5), torch.ones(64, 5))
    assert not torch.equal(model(*inputs), model(*inputs))
    model.eval()
    torch.testing.assert_close(model(*inputs)[:1], model(inputs[0][:1], inputs[1][:1]))
