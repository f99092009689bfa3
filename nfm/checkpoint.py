"""Checkpoints: the whole state of a training at a step, from which any number of workers goes on.

A checkpoint is a directory ``step-<number>`` of safetensors files: ``dense`` with the model and its
optimiser, and one ``table-<shard>`` per shard of the embedding table, with the rows i of the table
for which i % shards == shard and their optimiser state. ``state.json`` is written last, with the
position in the training, the checksum of every file and, at the end of an epoch that is the best so
far, what the validation found of the scores.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from conf.errors import RunError
from nfm.calibration import ScoreReference
from nfm.epoch_plan import Phase
from nfm.step import TrainStep

CHECKPOINTS = "checkpoints"  # below the directory of a run
STATE, DENSE = "state.json", "dense.safetensors"
Tensors = dict[str, torch.Tensor]
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Position:
    """Where a training stands.

    Attributes:
        step: Steps taken, over all epochs.
        epoch: The epoch that goes on, from 0.
        done: Its steps so far, by the number of workers that took them.
        loss: Summed loss of the rows of those steps.
        skipped: Steps left out because they were not finite, over all epochs.
        best_epoch: The epoch with the best validation metric so far; -1 before there is one.
        best_step: Steps at its end: the name of its checkpoint.
        best_metrics: Its validation metrics.
    """

    step: int = 0
    epoch: int = 0
    done: tuple[Phase, ...] = ()
    loss: float = 0.0
    skipped: int = 0
    best_epoch: int = -1
    best_step: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)

    def after_step(self, world_size: int, loss: float, *, skipped: bool = False) -> "Position":
        """One step further in the same epoch."""
        *earlier, last = self.done or (Phase(world_size, 0),)
        if last.world_size != world_size:
            earlier, last = [*earlier, last], Phase(world_size, 0)
        done = (*earlier, Phase(world_size, last.steps + 1))
        return replace(
            self,
            step=self.step + 1,
            done=done,
            loss=self.loss + loss,
            skipped=self.skipped + skipped,
        )


def table_file(shard: int, shards: int) -> str:
    """Name of the file with a shard of the table."""
    return f"table-{shard:05d}-of-{shards:05d}.safetensors"


def directory_of(checkpoints: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return checkpoints / f"step-{step:010d}"


def dense_tensors(step: TrainStep) -> Tensors:
    """The model and its optimiser, and what the table's optimiser keeps per run."""
    model = {f"model.{name}": tensor for name, tensor in step.model.state_dict().items()}
    dense = {f"optimizer.{name}": tensor for name, tensor in step.dense.optimizer.state.items()}
    table = step.table.optimizer.state
    return model | dense | {f"table.optimizer.{k}": v for k, v in table.items() if not v.ndim}


def table_tensors(step: TrainStep) -> Tensors:
    """This worker's rows of the table and their optimiser state."""
    state = step.table.optimizer.state
    rows = {f"table.optimizer.{name}": tensor for name, tensor in state.items() if tensor.ndim}
    return {"table.weight": step.table.weight_RD, **rows}


def restore(step: TrainStep, checkpoint: Path) -> None:
    """Put a checkpoint back, whatever number of workers wrote it."""
    dense = read_tensors(checkpoint / DENSE)
    step.model.load_state_dict(_under("model.", dense))
    for prefix, optimizer in (
        ("optimizer.", step.dense.optimizer),
        ("table.optimizer.", step.table.optimizer),
    ):
        for name, tensor in _under(prefix, dense).items():
            optimizer.state[name].copy_(tensor)
    table = step.table
    for name, rows in table_tensors(step).items():
        _fill(rows, table.shard, table.shards, checkpoint, name)


def read_weights(checkpoint: Path) -> Tensors:
    """What a prediction needs of a checkpoint: the model, and the whole table."""
    weights = {k: v for k, v in read_tensors(checkpoint / DENSE).items() if k.startswith("model.")}
    files = [read_tensors(path)["table.weight"] for path in _table_files(checkpoint)]
    table = files[0].new_empty(sum(map(len, files)), files[0].shape[1])
    for shard, rows in enumerate(files):
        table[shard :: len(files)] = rows
    return {"table.weight": table, **weights}


def read_position(checkpoint: Path) -> Position:
    """Where the training stood."""
    position = json.loads((checkpoint / STATE).read_text())["position"]
    return Position(**{**position, "done": tuple(Phase(**phase) for phase in position["done"])})


def read_scores(checkpoint: Path) -> ScoreReference:
    """What the validation found, of the checkpoint of a best epoch."""
    return ScoreReference.from_json(json.loads((checkpoint / STATE).read_text())["scores"])


def read_checksums(checkpoint: Path) -> dict[str, str]:
    """SHA-256 in hex of each file."""
    checksums: dict[str, str] = json.loads((checkpoint / STATE).read_text())["sha256"]
    return checksums


def write_state(
    checkpoint: Path,
    position: Position,
    checksums: dict[str, str],
    scores: ScoreReference | None = None,
) -> None:
    """Write the last file of a checkpoint, in one step also where there is one."""
    state = {"position": asdict(position), "sha256": checksums}
    if scores:
        state["scores"] = scores.to_json()
    temporary = checkpoint / f"{STATE}.tmp"
    temporary.write_text(json.dumps(state, indent=1))
    sync(temporary)
    temporary.replace(checkpoint / STATE)
    sync(checkpoint)


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Those that were published, the newest first."""
    return sorted(checkpoints.glob("step-*"), reverse=True)


def write_tensors(path: Path, tensors: Tensors) -> str:
    """Write a safetensors file down to the disk; returns its SHA-256 in hex."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    sync(path)
    return checksum(path)


def read_tensors(path: Path) -> Tensors:
    """Read a safetensors file.

    Raises:
        RunError: It cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"checkpoint file '{path}' cannot be read: {error}") from None


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, written down to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path, alive: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a file in hex; calls ``alive`` as it goes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            alive()
    return digest.hexdigest()


def _table_files(checkpoint: Path) -> list[Path]:
    """The shards of the table, in their order."""
    return sorted(checkpoint.glob("table-*.safetensors"))


def _fill(rows: torch.Tensor, shard: int, shards: int, checkpoint: Path, name: str) -> None:
    """Take the rows i with i % shards == shard out of the files, which were cut in another way."""
    files = _table_files(checkpoint)
    for number, path in enumerate(files):
        with safe_open(path, framework="pt") as file:
            written: Any = file.get_tensor(name)
        ids = torch.arange(number, number + len(written) * len(files), len(files))
        mine = ids % shards == shard
        rows[(ids[mine] // shards).to(rows.device)] = written[mine].to(rows)


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
