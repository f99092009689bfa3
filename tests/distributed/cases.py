"""Steps that any number of workers must take alike."""

from dataclasses import dataclass
from pathlib import Path

import torch

from nfm.batch import Batch
from nfm.checkpoint import tensors_of
from nfm.collectives import Collectives
from nfm.trainer import build_step
from tests.data import make_config

NUM_FEATURES, SLOTS = 50, 6


@dataclass(frozen=True)
class Case:
    """Overrides of the configuration, and the rows that each of two ranks brings to each step."""

    overrides: tuple[str, ...]
    rows: tuple[tuple[int, int], ...]


_PENALTIES = ("train.l1={embedding: 1e-3}", "train.l2={embedding: 1e-2, linear: 1e-2, dense: 1e-2}")
_EVEN = ((16, 16),) * 4
_UNEVEN = ((16, 9), (3, 16), (16, 1), (7, 7))
_ONE_EMPTY = ((16, 16), (16, 0), (0, 5), (1, 0))

CASES = {
    f"{optimizer}-{name}": Case((f"train.optimizer.name={optimizer}", *overrides), rows)
    for optimizer in ("adagrad", "adam")
    for name, overrides, rows in (
        ("even", (), _EVEN),
        ("uneven", (), _UNEVEN),
        ("empty", (), _ONE_EMPTY),
        ("penalties", _PENALTIES, _UNEVEN),
        ("deep", ("model.hidden=[8, 8, 4]",), _UNEVEN),
        ("plain", ("model.batch_norm=false",), _ONE_EMPTY),
        (
            "regression",
            ("task=regression", "train.early_stopping.metric=rmse"),
            _UNEVEN,
        ),
    )
}


def run_case(case: Case, workers: Collectives, root: Path) -> dict[str, torch.Tensor]:
    """Take the case's steps: each rank its own rows, a worker that is alone all of them."""
    root.mkdir(parents=True)
    config = make_config(root, "model.dropout=0.0", *case.overrides)
    step = build_step(config, NUM_FEATURES, workers, dtype=torch.float64)
    generator = torch.Generator().manual_seed(11)
    losses = []
    for per_rank in case.rows:
        batches = [_batch(rows, generator) for rows in per_rank]
        mine = batches[workers.rank] if workers.size > 1 else _joined(batches)
        losses.append(step(mine, sum(per_rank)))
    total = workers.sum(torch.tensor(losses, dtype=torch.float64), "test.losses")
    return {**tensors_of(step), "losses": total}


def _batch(rows: int, generator: torch.Generator) -> Batch:
    ids = torch.randint(NUM_FEATURES, (rows, SLOTS), generator=generator)
    x = torch.rand(rows, SLOTS, dtype=torch.float64, generator=generator)
    x[:, -1] *= torch.randint(2, (rows,), generator=generator)
    return Batch(ids, x, torch.randint(2, (rows,), generator=generator).double())


def _joined(batches: list[Batch]) -> Batch:
    return Batch(
        torch.cat([batch.ids_BS for batch in batches]),
        torch.cat([batch.x_BS for batch in batches]),
        torch.cat([batch.label_B for batch in batches]),
    )
