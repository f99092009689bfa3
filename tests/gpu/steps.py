"""Steps that a GPU and the compiled loops of the processor must take alike."""

from collections.abc import Sequence

import torch

from conf.manifest import FieldSpec
from conf.schema import Config
from nfm.batch import Batch
from nfm.checkpoint import dense_tensors, table_tensors
from nfm.collectives import Alone
from nfm.step import TrainStep, build_step
from tests.data import OPTIMIZERS, plain_fields

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NUM_FEATURES, SLOTS, ROWS = 300, 6, 200
OF_ROWS = plain_fields(NUM_FEATURES, 1, 2, 1, 2)
# Where batch norm makes a gradient zero, Adam divides its rounding by the root of its square.
EXACT = {**dict.fromkeys(OPTIMIZERS, 1e-9), "adam": 1e-7}


def random_batch(generator: torch.Generator, rows: int = ROWS) -> Batch:
    """Rows with empty slots, weights, and a label that hangs on the first two features."""
    ids = torch.randint(NUM_FEATURES, (rows, SLOTS), generator=generator, dtype=torch.int32)
    # Of few bits: where one way multiplies two of them in float32, nothing is rounded.
    x = torch.randint(1, 32, (rows, SLOTS), generator=generator) / 16
    x[: rows // 4, -1] = 0.0
    label = (ids[:, 0] + ids[:, 1] < NUM_FEATURES).float()
    return Batch(ids, x, label, 2 * torch.rand(rows, generator=generator))


def take_steps(step: TrainStep, number: int, seed: int = 0) -> list[float]:
    """The same steps on whatever device; returns their losses per row."""
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for count in range(number):
        batch = random_batch(generator)
        torch.manual_seed(1000 * seed + count)  # dropout
        losses.append(step(batch, len(batch)).loss / len(batch))
    return losses


def tensors_of(step: TrainStep) -> dict[str, torch.Tensor]:
    """A copy of all that a checkpoint holds."""
    return {k: v.cpu().clone() for k, v in (dense_tensors(step) | table_tensors(step)).items()}


def assert_same(found: TrainStep, expected: TrainStep, *, exact: float) -> None:
    """Weights, running statistics and optimiser states are equal."""
    torch.testing.assert_close(tensors_of(found), tensors_of(expected), atol=exact, rtol=exact)


def both(
    config: Config, dtype: torch.dtype = torch.float64, fields: Sequence[FieldSpec] = OF_ROWS
) -> tuple[TrainStep, TrainStep]:
    """The same step on the GPU and in the compiled loops."""
    gpu, cpu = (
        build_step(config, fields, Alone(), dtype=dtype, device=device) for device in (GPU, CPU)
    )
    assert gpu.table.weight_RD.is_cuda
    assert all(parameter.is_cuda for parameter in gpu.model.parameters())
    return gpu, cpu
