"""The whole state of a training, as named tensors in one safetensors file per epoch."""

import json
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import load, save

from conf import storage
from nfm.step import TrainStep

TENSORS, STATE = "state.safetensors", "state.json"
# Names of what a prediction needs; the rest is the optimisers'.
WEIGHT_PREFIXES = ("table.weight", "model.")


@dataclass(frozen=True)
class Position:
    """Where a training stands.

    Attributes:
        epoch: The last complete epoch, from 0.
        best_epoch: The one with the best validation metric so far.
        metrics: Validation metrics of ``epoch``.
    """

    epoch: int
    best_epoch: int
    metrics: dict[str, float]


def tensors_of(step: TrainStep) -> dict[str, torch.Tensor]:
    """Weights and optimiser state, under names that do not depend on the run."""
    tensors = {"table.weight": step.table.weight_VD}
    tensors |= {f"table.optimizer.{k}": v for k, v in step.table.optimizer.state.items()}
    tensors |= {f"model.{k}": v for k, v in step.model.state_dict().items()}
    for index, state in step.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    return tensors


def restore(step: TrainStep, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what ``tensors_of`` took."""
    step.table.weight_VD.copy_(tensors["table.weight"])
    for name, tensor in step.table.optimizer.state.items():
        tensor.copy_(tensors[f"table.optimizer.{name}"])
    step.model.load_state_dict(_under("model.", tensors))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    groups = step.optimizer.state_dict()["param_groups"]
    step.optimizer.load_state_dict({"state": state, "param_groups": groups})


def write_checkpoint(directory: str, tensors: dict[str, torch.Tensor], position: Position) -> None:
    """Write ``<directory>/epoch-NNNN`` whole, and drop those neither best nor last."""
    final = f"{directory}/{_name(position.epoch)}"
    with storage.staged_directory(final, overwrite=True, proof=STATE) as staging:
        write_tensors(f"{staging}/{TENSORS}", tensors)
        storage.write_text(f"{staging}/{STATE}", json.dumps(asdict(position)))
    fs, plain = storage.filesystem(directory)
    keep = {_name(position.epoch), _name(position.best_epoch)}
    for path in fs.ls(plain, detail=False):
        if path.rpartition("/")[2] not in keep:
            fs.rm(path, recursive=True)


def read_checkpoint(directory: str, epoch: int) -> tuple[dict[str, torch.Tensor], Position]:
    """The checkpoint of an epoch."""
    path = f"{directory}/{_name(epoch)}"
    position = Position(**json.loads(storage.read_text(f"{path}/{STATE}")))
    return read_tensors(f"{path}/{TENSORS}"), position


def weights_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a prediction needs of a checkpoint."""
    return {k: v for k, v in tensors.items() if k.startswith(WEIGHT_PREFIXES)}


def write_tensors(path: str, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file."""
    fs, plain = storage.filesystem(path)
    with fs.open(plain, "wb") as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def read_tensors(path: str) -> dict[str, torch.Tensor]:
    """Read a safetensors file."""
    fs, plain = storage.filesystem(path)
    with fs.open(plain, "rb") as file:
        tensors: dict[str, torch.Tensor] = load(file.read())
    return tensors


def _name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
