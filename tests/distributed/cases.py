"""Steps that any number of workers must take alike."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nfm.batch import Batch
from nfm.checkpoint import Position, read_tensors
from nfm.checkpoint_writer import CheckpointWriter
from nfm.collectives import Collectives
from nfm.distributed import HorovodWorkers
from nfm.step import build_step
from nfm.tally import Tally, merge
from tests.data import OPTIMIZERS, make_config, plain_fields

NUM_FEATURES, SLOTS = 50, 6
FIELDS = plain_fields(NUM_FEATURES, 1, 3, 1, 1)
WORLDS = (2, 3, 4)
PLACEMENTS = ("replicated", "sharded")
STOP_AFTER = 3  # steps, in the middle of the first epoch


@dataclass(frozen=True)
class Case:
    """Overrides of the configuration, and the rows that ranks 0, 1, ... bring to each step."""

    overrides: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]


_PENALTIES = (
    "train.l1={embedding: 1e-3}",
    "train.l2={embedding: 1e-2, linear: 1e-2, dense: 1e-2}",
    "weight=importance",
)
_RECIPE = (
    *_PENALTIES,
    "train.optimizer.clip_norm=2",
    "train.optimizer.weight_decay=0.1",
    "train.optimizer.embedding_learning_rate=0.03",
)
_EVEN = ((16, 16, 16, 16),) * 4
_UNEVEN = ((16, 9, 4, 20), (3, 16, 8, 1), (16, 1, 5, 16), (7, 7, 7, 7))
_ONE_EMPTY = ((16, 16, 16, 16), (16, 0, 9, 0), (0, 5, 0, 0), (1, 0, 0, 0))

CASES = {
    f"{optimizer}-{placement}-{name}": Case(
        (*OPTIMIZERS[optimizer], f"train.placement={placement}", *overrides), rows
    )
    for placement in PLACEMENTS
    for optimizers, name, overrides, rows in (
        (OPTIMIZERS, "even", (), _EVEN),
        (("adagrad", "adam"), "uneven", (), _UNEVEN),
        (("adagrad", "adam"), "empty", (), _ONE_EMPTY),
        (("adagrad", "adam"), "penalties", _PENALTIES, _UNEVEN),
        (("adam", "momentum"), "recipe", _RECIPE, _ONE_EMPTY),
        (("adagrad",), "deep", ("model.hidden=[8, 8, 4]",), _UNEVEN),
        (("adam",), "plain", ("model.batch_norm=none", "train.loss=squared"), _ONE_EMPTY),
        (
            ("adagrad",),
            "regression",
            ("task=regression", "train.early_stopping.metric=rmse"),
            _UNEVEN,
        ),
    )
    for optimizer in optimizers
} | {
    f"{model}-{placement}": Case(
        (f"model.name={model}", f"train.placement={placement}", *_PENALTIES), _ONE_EMPTY
    )
    for placement in PLACEMENTS
    for model in ("lr", "fm", "fnn", "wide_deep", "deep_cross")
}

# One worker with the rows of all is no measure of this; tests.distributed.local_norm is.
LOCAL = Case(
    ("model.batch_norm=local", "train.optimizer.name=sgd", "train.placement=replicated"),
    ((16, 9, 0, 3), (5, 1, 0, 16), (16, 0, 0, 2), (16, 7, 0, 1)),
)


def cases_of(world_size: int) -> list[str]:
    """Names of those that so many workers take.

    Three, for the time's sake, the sharded ones, and replicated ones with every optimiser.
    """
    return [n for n in CASES if world_size != 3 or "sharded" in n or n.endswith("-even")]


def batches_of(case: Case, world_size: int) -> list[list[Batch]]:
    """What the ranks bring to each step."""
    generator = torch.Generator().manual_seed(11)
    steps = []
    for rows in case.rows:
        batches = [_batch(count, generator) for count in rows[:world_size]]
        if "weight=importance" in case.overrides:
            batches = [replace(batch, weight_B=_weights(batch, generator)) for batch in batches]
        steps.append(batches)
    return steps


def run_case(case: Case, workers: Collectives, world_size: int, root: Path) -> torch.Tensor:
    """Take the case's steps, each rank its own rows, a worker that is alone all of them.

    Running statistics of local batch norm are averaged after every second one. Leaves a checkpoint
    of the last step in ``root``; returns the losses.
    """
    root.mkdir(parents=True, exist_ok=True)
    scratch = root / f"config-{workers.rank}"
    scratch.mkdir()
    config = make_config(scratch, "model.dropout=0.0", *case.overrides)
    writer = CheckpointWriter(root, workers, keep=1, timeout_s=60.0)
    step = build_step(config, FIELDS, workers, dtype=torch.float64)
    losses = []
    for batches in batches_of(case, world_size):
        mine = batches[workers.rank] if workers.size > 1 else joined(batches)
        losses.append(step(mine, sum(map(len, batches))).loss)
        if case is LOCAL and len(losses) % 2 == 0:
            step.average_statistics()
    writer.write(step, Position(step=len(losses)))
    writer.wait()
    return torch.tensor(losses, dtype=torch.float64)


TRAFFIC = Case(("train.optimizer.name=sgd",), (_EVEN[0],))
GROWTH = 121  # which is 1 modulo 2, 3 and 4: an id times that has the owner it had


def traffic(workers: HorovodWorkers, placement: str, root: Path) -> list[int]:
    """Bytes that this worker sends in a step, with a small and a GROWTH times larger table."""
    root.mkdir(parents=True)
    config = make_config(root, f"train.placement={placement}", *TRAFFIC.overrides)
    sent = []
    for times in (1, GROWTH):
        fields = plain_fields(NUM_FEATURES * times, 1, 3, 1, 1)
        step = build_step(config, fields, workers, dtype=torch.float64)
        (batches,) = batches_of(TRAFFIC, workers.size)
        batch = batches[workers.rank]
        before = workers.bytes_sent
        step(replace(batch, ids_BS=batch.ids_BS * times), sum(map(len, batches)))
        sent.append(workers.bytes_sent - before)
    return sent


def changed_by_an_overflow(workers: Collectives, placement: str, root: Path) -> bool:
    """Whether a step counts, or changes a row, of which only rank 0's gradient is infinite."""
    root.mkdir(parents=True)
    config = make_config(
        root,
        *("task=regression", "train.early_stopping.metric=rmse", "model.name=fm"),
        *("model.embedding_std=0.0", f"train.placement={placement}"),
    )
    step = build_step(config, FIELDS, workers)
    (batches,) = batches_of(TRAFFIC, workers.size)
    batch = batches[workers.rank]
    if workers.rank == 0:
        batch.x_BS[0, 0], batch.label_B[0] = 1e38, 1e6
    finite = step(batch, sum(map(len, batches))).finite
    return finite or bool(step.table.weight_RD.any())


def everything(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, the table's rows in the order of their features."""
    tensors = read_tensors(checkpoint / "dense.safetensors")
    shards = [read_tensors(path) for path in sorted(checkpoint.glob("table-*"))]
    for name in shards[0]:
        rows = [tensor[name] for tensor in shards]
        whole = rows[0].new_empty(sum(map(len, rows)), rows[0].shape[1])
        for number, part in enumerate(rows):
            whole[number :: len(rows)] = part
        tensors[name] = whole
    return tensors


def tally_of_ranks(ranks: Iterable[int]) -> Tally:
    """Predictions of some ranks, many of them tied; rank 1 has none."""
    tallies = []
    for rank in ranks:
        rng = np.random.default_rng(rank)
        rows = 0 if rank == 1 else 400
        output, label, user = (rng.integers(0, high, rows) for high in (90, 2, 7))
        tallies.append(Tally.of(output / 7 - 6, label, {"user": user}))
    return merge(tallies)


def _batch(rows: int, generator: torch.Generator) -> Batch:
    ids = torch.randint(NUM_FEATURES, (rows, SLOTS), generator=generator, dtype=torch.int32)
    x = torch.rand(rows, SLOTS, generator=generator)
    x[:, -1] *= torch.randint(2, (rows,), generator=generator)
    return Batch(ids, x, torch.randint(2, (rows,), generator=generator).float())


def _weights(batch: Batch, generator: torch.Generator) -> torch.Tensor:
    return 3 * torch.rand(len(batch), generator=generator)


def joined(batches: list[Batch]) -> Batch:
    """The rows of several workers as those of one."""
    weights = [batch.weight_B for batch in batches if batch.weight_B is not None]
    return Batch(
        torch.cat([batch.ids_BS for batch in batches]),
        torch.cat([batch.x_BS for batch in batches]),
        torch.cat([batch.label_B for batch in batches]),
        torch.cat(weights) if weights else None,
    )
