"""A Horovod worker on a GPU: its collectives, and a whole training that the launcher starts.

One GPU has room for one worker: NCCL refuses two on the same.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nfm.checkpoint import read_weights
from nfm.collectives import Alone
from nfm.distributed import HorovodWorkers, can_reduce_on_gpu
from nfm.launch.supervisor import LOG, launch
from nfm.step import build_step
from nfm.table import ShardedTable
from nfm.trainer import Trainer
from tests.data import OPTIMIZERS, make_config
from tests.distributed.features import write_features
from tests.gpu.steps import CPU, EXACT, GPU, NUM_FEATURES, OF_ROWS, assert_same, take_steps

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)
if not can_reduce_on_gpu():
    pytest.skip("Horovod was built without NCCL", allow_module_level=True)


@pytest.fixture(scope="module")
def workers() -> Iterator[HorovodWorkers]:
    torch.cuda.set_device(GPU)
    alone = HorovodWorkers()
    assert (alone.rank, alone.size, alone.local_rank) == (0, 1, 0)
    yield alone
    alone.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
@pytest.mark.parametrize("rows", [0, 1, 70_000])
def test_collectives(workers: HorovodWorkers, dtype: torch.dtype, rows: int) -> None:
    rows_MD = torch.randint(9, (rows, 17), device=GPU).to(dtype)
    ids_M = rows_MD[:, 0].contiguous()
    name = f"{dtype}.{rows}"
    later = [
        (rows_MD, workers.gather_later(rows_MD, f"gather.rows.{name}")),
        (ids_M, workers.gather_later(ids_M, f"gather.ids.{name}")),
    ]
    if rows:  # what is summed, parameters and statistics, is never empty
        later.append((rows_MD, workers.sum_later(rows_MD, f"sum.{name}")))
    exchanges = [
        (tensor, workers.exchange_later(tensor, [rows], f"exchange.{number}.{name}"))
        for number, tensor in enumerate((rows_MD, ids_M))
    ]
    for sent, result in later:
        received = result()
        assert received.is_cuda
        assert torch.equal(received, sent)
    for sent, parts in exchanges:
        received, lengths = parts()
        assert received.is_cuda
        assert torch.equal(received, sent)
        assert lengths == [rows]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sharded_table_equals_the_compiled_loops(
    tmp_path: Path, workers: HorovodWorkers, optimizer: str
) -> None:
    """Of one shard: ids, rows and gradients make their way through NCCL, to itself."""
    config = make_config(tmp_path, *OPTIMIZERS[optimizer], "model.bi_dropout=0.2")
    gpu = build_step(config, OF_ROWS, workers, dtype=torch.float64, device=GPU)
    cpu = build_step(config, OF_ROWS, Alone(), dtype=torch.float64, device=CPU)
    whole = gpu.table
    gpu.table = ShardedTable(whole.weight_RD, whole.optimizer, workers, NUM_FEATURES)
    assert take_steps(gpu, 5) == pytest.approx(take_steps(cpu, 5), rel=EXACT[optimizer])
    assert_same(gpu, cpu, exact=EXACT[optimizer])


def test_a_training_by_the_launcher_equals_one_on_the_processor(tmp_path: Path) -> None:
    """From Parquet to the last checkpoint: horovodrun, a worker on the GPU of its local rank."""
    config = make_config(
        tmp_path, "train.num_workers=1", "train.epochs=3", "train.max_restarts=0", "weight=weight"
    )
    manifest = write_features(config, [700, 300, 450], [230, 170])
    found = launch(config, manifest, tmp_path / "gpu")
    assert "computes on cuda:0" in (tmp_path / "gpu" / LOG).read_text()
    step = build_step(config, manifest.fields, Alone(), device=CPU)
    (tmp_path / "cpu").mkdir()
    expected = Trainer(config, manifest, Alone(), tmp_path / "cpu", None, step).fit()
    assert (found.best_epoch, found.rows) == (expected.best_epoch, expected.rows)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-3)
    checkpoint = f"checkpoints/step-{found.best_step:010d}"
    theirs = read_weights(tmp_path / "cpu" / checkpoint)
    for key, tensor in read_weights(tmp_path / "gpu" / checkpoint).items():
        torch.testing.assert_close(tensor, theirs[key], atol=1e-3, rtol=1e-3, msg=key)
