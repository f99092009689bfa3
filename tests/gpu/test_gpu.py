"""The step on a GPU against the compiled loops of the processor; needs a GPU, and no Spark.

Those against plain torch on the whole table: tests/unit/test_step.py.
"""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nfm.batch import group
from nfm.checkpoint import Position, directory_of, restore, table_tensors
from nfm.checkpoint_writer import CheckpointWriter
from nfm.collectives import Alone
from nfm.diagnosis import blame
from nfm.step import build_step
from nfm.table import sum_by_group
from tests.data import OPTIMIZERS, make_config, plain_fields
from tests.distributed.features import write_features
from tests.gpu.steps import (
    EXACT,
    GPU,
    NUM_FEATURES,
    OF_ROWS,
    assert_same,
    both,
    random_batch,
    take_steps,
    tensors_of,
)

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

MODELS = ("lr", "fm", "fnn", "wide_deep", "deep_cross")
CASES = {
    "batch_norm": (),
    "no_batch_norm": ("model.batch_norm=none",),
    "dropout": ("model.dropout=0.3", "model.bi_dropout=0.2"),
    "tanh": ("model.activation=tanh", "model.hidden=[16, 8]", "model.dropout=0.2"),
    "penalties": (
        "train.l1={embedding: 1e-3, linear: 2e-3, dense: 3e-3}",
        "train.l2={embedding: 1e-2, linear: 2e-2, dense: 3e-2}",
    ),
    "recipe": (
        "train.optimizer.embedding_learning_rate=0.02",
        "train.optimizer.weight_decay=0.1",
        "train.optimizer.clip_norm=0.1",
    ),
    **{name: (f"model.name={name}", "model.dropout=0.2") for name in MODELS},
    "regression": ("task=regression", "train.early_stopping.metric=rmse"),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
def test_steps_and_predictions_equal_the_compiled_loops(
    tmp_path: Path, optimizer: str, case: str
) -> None:
    """With dropout, too: the masks are the same on every device."""
    config = make_config(tmp_path, *OPTIMIZERS[optimizer], "model.dropout=0.0", *CASES[case])
    gpu, cpu = both(config)
    assert take_steps(gpu, 5) == pytest.approx(take_steps(cpu, 5), rel=EXACT[optimizer])
    assert_same(gpu, cpu, exact=EXACT[optimizer])
    batch = random_batch(torch.Generator().manual_seed(9))
    close = {"atol": EXACT[optimizer], "rtol": EXACT[optimizer]}
    torch.testing.assert_close(gpu.predict(batch), cpu.predict(batch), **close)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_float32_equals_the_compiled_loops_within_rounding(tmp_path: Path, optimizer: str) -> None:
    """Adam makes whole steps of the rounding of those gradients that batch norm makes zero."""
    overrides = [*OPTIMIZERS[optimizer], "train.optimizer.learning_rate=0.01"]
    if optimizer == "adam":
        overrides.append("model.batch_norm=none")
    gpu, cpu = both(make_config(tmp_path, *overrides), torch.float32)
    assert take_steps(gpu, 5) == pytest.approx(take_steps(cpu, 5), rel=1e-4)
    assert_same(gpu, cpu, exact=1e-3)


def test_bf16_trains_as_float32_does(tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bf16"):
        config = make_config(tmp_path, f"train.precision={precision}")
        step = build_step(config, OF_ROWS, Alone(), device=GPU)
        losses[precision] = take_steps(step, 300)
        assert {tensor.dtype for tensor in table_tensors(step).values()} == {torch.float32}
        assert {parameter.dtype for parameter in step.model.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["float32"]
    ends = [sum(losses[precision][-50:]) / 50 for precision in ("bf16", "float32")]
    assert ends[1] < 0.85 * losses["float32"][0]  # there is something to learn
    assert ends[0] == pytest.approx(ends[1], rel=0.02)


def test_a_batch_is_copied_while_the_gpu_is_busy(tmp_path: Path) -> None:
    """Out of pageable memory a copy would wait for all that the GPU still has to do."""
    batch = random_batch(torch.Generator().manual_seed(2), rows=50_000)
    _ = batch.groups
    batch.to(GPU)  # the first one asks the system for pinned memory, which waits
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    start = time.monotonic()
    moved = batch.to(GPU)
    copied = time.monotonic() - start
    torch.cuda.synchronize()
    busy = time.monotonic() - start
    assert copied < 0.5 * busy, f"{copied:.3f} s of {busy:.3f} s"
    for name in ("ids_BS", "x_BS", "label_B", "weight_B"):
        assert torch.equal(getattr(moved, name).cpu(), getattr(batch, name))
    for name in ("ids_U", "inverse_N"):
        assert torch.equal(getattr(moved.groups, name).cpu(), getattr(batch.groups, name))


def test_gradients_of_several_workers_are_merged_alike_to_the_last_bit() -> None:
    """Replicas drift apart otherwise; of eight workers a row has up to eight parts."""
    generator = torch.Generator().manual_seed(4)
    index_M = torch.cat([torch.randperm(6000, generator=generator)[:5000] for _ in range(8)]).int()
    grad_MD = torch.randn(len(index_M), 17, generator=generator)
    groups, on_gpu = group(index_M), group(index_M.to(GPU))
    assert torch.equal(on_gpu.ids_U.cpu(), groups.ids_U)
    expected_UD = sum_by_group(groups, grad_MD)
    again = [sum_by_group(on_gpu, grad_MD.to(GPU)) for _ in range(5)]
    for grad_UD in again:
        assert torch.equal(grad_UD, again[0])
        torch.testing.assert_close(grad_UD.cpu(), expected_UD, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("written_on", ["gpu", "cpu"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_goes_on_on_the_other_device(
    tmp_path: Path, written_on: str, optimizer: str
) -> None:
    config = make_config(tmp_path, *OPTIMIZERS[optimizer])
    before, after = both(config) if written_on == "gpu" else reversed(both(config))
    take_steps(before, 2)
    writer = CheckpointWriter(tmp_path / "checkpoints", Alone(), keep=1, timeout_s=60.0)
    writer.write(before, Position(step=2))
    writer.wait()
    restore(after, directory_of(tmp_path / "checkpoints", 2))
    assert_same(after, before, exact=0.0)
    take_steps(before, 2, seed=1)
    take_steps(after, 2, seed=1)
    assert_same(after, before, exact=EXACT[optimizer])


def test_a_step_that_is_not_finite_changes_nothing_and_names_its_cause(tmp_path: Path) -> None:
    config = make_config(tmp_path, "fields=[{name: price, kind: numeric}]")
    fields = write_features(config, [1], [1]).fields
    batch = random_batch(torch.Generator().manual_seed(3))
    batch = replace(batch, ids_BS=batch.ids_BS[:, :1].clone(), x_BS=batch.x_BS[:, :1].clone())
    batch.x_BS[7] = float("inf")
    gpu, cpu = both(config, fields=plain_fields(NUM_FEATURES, 1))
    before = tensors_of(gpu)
    for step in (gpu, cpu):
        assert not step(batch, len(batch)).finite
    for name in ("table.weight", "model.bias", "model.pooled.norm.running_mean"):
        assert torch.equal(tensors_of(gpu)[name], before[name])
    causes = [blame(batch, step.lookup.rows, fields, Alone()) for step in (gpu, cpu)]
    assert causes[0] == causes[1]
    assert "field 'price' with x = inf" in causes[0]
