"""Whole trainings of one worker, out of Parquet: going on, damage, values that are not finite."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from conf.cells import count_cells
from conf.errors import DataError, RunError
from conf.loader import dump_config
from conf.manifest import read_manifest, write_manifest
from conf.schema import Config
from conf.training import CheckpointConfig
from jobs.train import arguments
from jobs.train import run as publish
from nfm.checkpoint import (
    CHECKPOINTS,
    Tensors,
    directory_of,
    list_checkpoints,
    read_position,
    read_scores,
    read_weights,
    restore,
)
from nfm.collectives import Alone
from nfm.epoch_plan import Block
from nfm.objective import probability
from nfm.run_log import RunLog
from nfm.step import build_step
from nfm.stream import stream_batches
from nfm.trainer import Result, StoppedError, Trainer
from nfm.validation import NotFiniteError
from nfm.worker import CONFIG, RESULT
from tests.bundles import bundle_of, write
from tests.data import make_config
from tests.distributed.features import write_features

TRAIN_FILES, VALID_FILES = [70, 300, 10, 142, 50, 33], [60, 7, 40]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    sets = ("train.epochs=3", "model.dropout=0.2", "train.shuffle_rows=120", "weight=importance")
    schedule = "train.optimizer.schedule={warmup_steps: 7, decay: linear}"
    config = make_config(tmp_path, *sets, "train.optimizer.name=adam", schedule)
    write_features(config, TRAIN_FILES, VALID_FILES)
    return config


def changed(config: Config, **train: object) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def trainer(
    config: Config,
    run: Path,
    stop_asked: Callable[[], bool] = lambda: False,
) -> Trainer:
    run.mkdir(exist_ok=True)
    manifest = read_manifest(config.features.path)
    step = build_step(config, manifest.fields, Alone())
    return Trainer(config, manifest, Alone(), run, RunLog(run), step, stop_asked)


def stop_after(config: Config, run: Path, steps: int, *, validating: bool = False) -> None:
    """Stop in that step, or in the validation after it."""
    asked_after = steps if validating else steps - 1
    stopped = trainer(config, run, lambda: stopped.position.step == asked_after)
    with pytest.raises(StoppedError, match=f"after step {steps},"):
        stopped.fit()


def weights(run: Path) -> Tensors:
    return read_weights(list_checkpoints(run / "checkpoints")[0])


def assert_same(run: Path, other: Path, result: Result, expected: Result) -> None:
    assert result == expected
    found = weights(run)
    for name, tensor in weights(other).items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0, msg=name)
    epochs = [
        json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == [0, 1, 2]
    scores, expected_scores = (
        read_scores(directory_of(path / CHECKPOINTS, result.best_step)) for path in (run, other)
    )
    assert scores == expected_scores


@pytest.mark.parametrize("stops", [[2], [5, 7], [5, 12], [15]])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    config: Config, tmp_path: Path, stops: list[int]
) -> None:
    """An epoch has 5 steps: a stop may be in its middle, at its end, or twice in one."""
    expected = trainer(config, tmp_path / "through").fit()
    for steps in stops:
        stop_after(config, tmp_path / "stopped", steps)
    result = trainer(config, tmp_path / "stopped").fit()
    assert_same(tmp_path / "stopped", tmp_path / "through", result, expected)


def test_the_end_in_a_validation_costs_no_step(config: Config, tmp_path: Path) -> None:
    """Of a training that was asked to stop, or of its process."""
    run = tmp_path / "ended"
    expected = trainer(config, tmp_path / "through").fit()
    stop_after(config, run, 5, validating=True)

    def lost() -> bool:
        if ended.position.step == 10:
            raise RuntimeError("lost")
        return False

    ended = trainer(config, run, lost)
    with pytest.raises(RuntimeError, match="lost"):
        ended.fit()
    assert steps_of(run)[0] == 10
    stop_after(config, run, 15, validating=True)
    result = trainer(config, run).fit()
    assert_same(run, tmp_path / "through", result, expected)


def test_a_state_that_drifted_apart_is_no_checkpoint(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfm.trainer.same_everywhere", lambda *_: False)
    with pytest.raises(RunError, match="the workers' weights drifted apart"):
        trainer(config, tmp_path / "run").fit()
    assert not steps_of(tmp_path / "run")


def test_the_bundle_that_a_training_began_from_is_not_needed_again(
    config: Config, tmp_path: Path
) -> None:
    known = pa.table({"field": ["user"], "value": ["u1"], "id": [2]})
    for root in (tmp_path, tmp_path / "before"):
        (root / "features/v1/vocabulary").mkdir(parents=True)
        pq.write_table(known, root / "features/v1/vocabulary/0.parquet")
    bundle = Path(write(bundle_of(tmp_path / "before"), tmp_path / "bundle"))
    from_it = changed(config, init_from=str(bundle))
    expected = trainer(from_it, tmp_path / "through").fit()
    assert expected != trainer(config, tmp_path / "from-nothing").fit()
    stop_after(from_it, tmp_path / "stopped", 2)
    shutil.rmtree(bundle)
    result = trainer(from_it, tmp_path / "stopped").fit()
    assert_same(tmp_path / "stopped", tmp_path / "through", result, expected)


def test_a_finished_training_has_nothing_left_to_do(config: Config, tmp_path: Path) -> None:
    expected = trainer(config, tmp_path / "run").fit()
    again = trainer(config, tmp_path / "run")
    assert again.fit() == expected


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        *(("gauc", max), ("pr_auc", max)),
        *(("normalised_entropy", min), ("logloss", min), ("ece", min)),
    ],
)
def test_any_metric_decides_which_epoch_is_kept(
    tmp_path: Path, metric: str, best: Callable[[list[float]], float]
) -> None:
    sets = ("train.optimizer.learning_rate=0.5", "train.early_stopping.patience=2")
    sets += (f"train.early_stopping.metric={metric}", "evaluate.group_by=user", "train.epochs=4")
    config = make_config(tmp_path, *sets)
    write_features(config, TRAIN_FILES, VALID_FILES)
    result = trainer(config, tmp_path / "run").fit()
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    values = [json.loads(line)[f"valid_{metric}"] for line in lines]
    assert result.metrics[metric] == best(values) == values[result.best_epoch]
    assert len(values) == min(4, result.best_epoch + 3)
    best_checkpoint = directory_of(tmp_path / "run" / CHECKPOINTS, result.best_step)
    assert read_scores(best_checkpoint).cells == cells_of_validation(config, best_checkpoint)


def cells_of_validation(config: Config, checkpoint: Path) -> dict[int, int]:
    """The scores of all validation rows, predicted once more."""
    manifest = read_manifest(config.features.path)
    step = build_step(config, manifest.fields, Alone())
    restore(step, checkpoint)
    files = manifest.splits["valid"].files
    paths = [f"{config.features.path}/{file.path}" for file in files]
    blocks = [Block((number,), file.rows, entropy=None) for number, file in enumerate(files)]
    batches = stream_batches(blocks, paths, manifest.fields, batch_rows=60)
    outputs = np.concatenate([step.predict(batch).numpy() for batch in batches])
    return count_cells(probability(outputs.astype(np.float64)))


def test_a_metric_that_does_not_exist_cannot_decide(tmp_path: Path) -> None:
    config = make_config(tmp_path, "train.epochs=1")
    write_features(config, [100], [1])
    with pytest.raises(DataError, match="there is no auc on the validation rows"):
        trainer(config, tmp_path / "run").fit()


def flip_a_bit(checkpoint: Path) -> None:
    table = checkpoint / "table-00000-of-00001.safetensors"
    content = bytearray(table.read_bytes())
    content[-1] ^= 1
    table.write_bytes(bytes(content))


def steps_of(run: Path) -> list[int]:
    return [read_position(path).step for path in list_checkpoints(run / CHECKPOINTS)]


def test_a_damaged_checkpoint_is_passed_over(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And does not count as the newest, which would cost those of earlier steps their place."""
    expected = trainer(config, tmp_path / "through").fit()
    run = tmp_path / "stopped"
    often = changed(config, checkpoint=CheckpointConfig(every_steps=2, keep=1))
    stop_after(often, run, 9)
    assert steps_of(run) == [9, 5]
    flip_a_bit(directory_of(run / CHECKPOINTS, 9))
    stop_after(often, run, 8)
    assert steps_of(run) == [8, 5]
    assert "is damaged (checksum of table-00000-of-00001.safetensors differs)" in caplog.text
    result = trainer(often, run).fit()
    assert_same(run, tmp_path / "through", result, expected)


def test_a_damaged_best_checkpoint_is_not_published_and_trained_again(tmp_path: Path) -> None:
    """After the training; the newest checkpoint is of a later epoch, and whole."""
    sets = ("train.optimizer.learning_rate=0.5", "train.epochs=4", "train.checkpoint.keep=1")
    config = make_config(tmp_path, *sets)
    write_features(config, TRAIN_FILES, VALID_FILES)
    run = Path(config.train.work_path) / "a-model"
    run.mkdir(parents=True)
    result = trainer(config, run).fit()
    best = directory_of(run / CHECKPOINTS, result.best_step)
    expected = read_weights(best)
    newest, kept = steps_of(run)
    assert newest > kept == result.best_step
    (run / CONFIG).write_text(dump_config(config))
    write_manifest(str(run), read_manifest(config.features.path))
    options = arguments().parse_args(["--config", "none", "--resume", run.name])

    flip_a_bit(best)
    (run / RESULT).write_text(result.to_json())
    with pytest.raises(RunError, match=rf"'{best}', is damaged \(checksum .*--resume a-model`"):
        publish(config, options)
    assert not Path(config.train.path).exists()
    assert not (run / RESULT).exists(), "nothing would be trained"

    assert trainer(config, run).fit() == result
    (run / RESULT).write_text(result.to_json())
    publish(config, options)
    found = load_file(f"{config.train.path}/a-model/model.safetensors")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def spoil(config: Config, value: float, column: str = "price", split: str = "train") -> str:
    """Put a value into a column of numbers in one row; returns the file."""
    manifest = read_manifest(config.features.path)
    path = f"{config.features.path}/{manifest.splits[split].files[-1].path}"
    table = pq.read_table(path)
    numbers = table[column].to_numpy().copy()
    numbers[17] = value
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, [numbers.astype(np.float32)]), path)
    return path


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("price", math.nan, "field 'price' with x = nan"),
        ("price", math.inf, "field 'price' with x = inf"),
        ("price", 3e30, "field 'price' with x = 3e+30"),
        ("label", math.nan, "the label nan"),
        ("sample_weight", math.inf, "the sample weight inf"),
    ],
)
def test_a_value_that_is_not_finite_is_named(
    config: Config, tmp_path: Path, column: str, value: float, named: str
) -> None:
    path = spoil(config, value, column)
    with pytest.raises(NotFiniteError) as raised:
        trainer(config, tmp_path / "run").fit()
    message = str(raised.value)
    assert named in message
    assert path in message
    assert "in step " in message


def test_a_validation_that_is_not_finite_ends_the_training(config: Config, tmp_path: Path) -> None:
    spoil(config, math.nan, split="valid")
    with pytest.raises(NotFiniteError, match="the validation's predictions"):
        trainer(config, tmp_path / "run").fit()


def test_steps_that_are_not_finite_can_be_left_out(config: Config, tmp_path: Path) -> None:
    """Within the budget of one an epoch the weights stay finite; one fewer is too few."""
    spoil(config, math.nan)
    result = trainer(changed(config, max_skipped_steps=3), tmp_path / "enough").fit()
    assert result.epochs == 3
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "enough").values())
    (newest, *_) = list_checkpoints(tmp_path / "enough" / "checkpoints")
    assert read_position(newest).skipped == 3
    with pytest.raises(NotFiniteError, match=r"max_skipped_steps \(2\)"):
        trainer(changed(config, max_skipped_steps=2), tmp_path / "too-few").fit()
