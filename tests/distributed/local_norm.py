"""Local batch norm in plain torch: a loop over the ranks' rows, each with an nn.BatchNorm1d."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from nfm.batch import Batch
from nfm.collectives import Alone
from nfm.step import build_step
from tests.data import make_config
from tests.distributed.cases import FIELDS, LOCAL, batches_of

LAYERS = {"model.pooled.norm": 8, "model.hidden.0.after.norm": 16}  # and their widths
RATE = 0.1


def train_local(root: Path, world_size: int) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint after the steps of LOCAL."""
    config = make_config(root, *LOCAL.overrides)
    step = build_step(config, FIELDS, Alone(), dtype=torch.float64)
    start = {f"model.{name}": tensor for name, tensor in step.model.named_parameters()}
    start["table.weight"] = step.table.weight_RD
    named = {name: tensor.detach().clone().requires_grad_() for name, tensor in start.items()}
    norms = [
        {name: nn.BatchNorm1d(width, affine=False).double() for name, width in LAYERS.items()}
        for _ in range(world_size)
    ]
    rule, learnt = torch.optim.SGD(named.values(), lr=RATE), [0] * world_size
    for number, batches in enumerate(batches_of(LOCAL, world_size)):
        rule.zero_grad()
        for rank, batch in enumerate(batches):
            logits_B, label_B = logits(batch, named, norms[rank]), batch.label_B.double()
            loss = F.binary_cross_entropy_with_logits(logits_B, label_B, reduction="sum")
            (loss / sum(map(len, batches))).backward()
            learnt[rank] += len(batch) if len(batch) > 1 else 0
        rule.step()
        if number % 2:
            average(norms, learnt)
            learnt = [0] * world_size
    statistics = {
        f"{name}.{kind}": tensor
        for name, norm in norms[0].items()
        for kind, tensor in norm.named_buffers()
        if kind.startswith("running")
    }
    return {name: tensor.detach() for name, tensor in named.items()} | statistics


def logits(
    batch: Batch, named: dict[str, torch.Tensor], norms: dict[str, nn.BatchNorm1d]
) -> torch.Tensor:
    """He & Chua (2017), eq. 2-7, of one rank's rows."""

    def normal(x_BH: torch.Tensor, name: str) -> torch.Tensor:
        # torch refuses a single row: it is its own mean.
        normal_BH = norms[name](x_BH) if len(x_BH) > 1 else 0 * x_BH
        return normal_BH * named[f"{name}.weight"] + named[f"{name}.bias"]

    pooled, hidden = LAYERS
    xv_BSD = named["table.weight"][batch.ids_BS] * batch.x_BS.double().unsqueeze(-1)
    v_BSK = xv_BSD[..., :-1]
    h_BH = normal((v_BSK.sum(1) ** 2 - (v_BSK**2).sum(1)) / 2, pooled)
    h_BH = torch.relu(normal(h_BH @ named["model.hidden.0.linear.weight"].T, hidden))
    deep_B1 = h_BH @ named["model.prediction.weight"].T
    return named["model.bias"] + xv_BSD[..., -1].sum(1) + deep_B1.squeeze(-1)


def average(norms: list[dict[str, nn.BatchNorm1d]], rows: list[int]) -> None:
    """The mean of the ranks' running statistics by their rows."""
    for name in LAYERS:
        for kind in ("running_mean", "running_var"):
            buffers = [getattr(mine[name], kind) for mine in norms]
            parts = (buffer * count for buffer, count in zip(buffers, rows, strict=True))
            mean = sum(parts, torch.zeros(1)) / sum(rows)
            for buffer in buffers:
                buffer.copy_(mean)
