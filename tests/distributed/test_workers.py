"""Two, three and four real Horovod processes against one on the concatenated batches."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from conf.manifest import Manifest
from conf.schema import Config
from nfm.batch import Batch
from nfm.checkpoint import Position, list_checkpoints, read_position, restore
from nfm.checkpoint_writer import CheckpointWriter
from nfm.collectives import Alone
from nfm.epoch_plan import Block, Phase, plan_epoch
from nfm.metrics import binary_metrics
from nfm.step import TrainStep, build_step
from nfm.stream import stream_batches
from tests.data import make_config
from tests.distributed.cases import CASES, WORLDS, everything, run_case
from tests.distributed.features import write_features

EXACT = {"atol": 1e-6, "rtol": 1e-6}


def run_workers(number: int, module: str, *arguments: object) -> None:
    command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "-np", str(number)]
    done = subprocess.run(
        [*command, sys.executable, "-m", module, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", params=WORLDS)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that ends with the number of workers that took every case's steps."""
    directory = tmp_path_factory.mktemp("workers") / str(request.param)
    run_workers(request.param, "tests.distributed.worker", directory)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_workers_equal_one_on_the_concatenated_batches(
    ran: Path, tmp_path: Path, name: str
) -> None:
    world_size = int(ran.name)
    losses = run_case(CASES[name], Alone(), world_size, tmp_path)
    expected = everything(list_checkpoints(tmp_path)[0])
    found = everything(list_checkpoints(ran / name)[0])
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key], **EXACT, msg=key)
    for rank in range(world_size):
        seen = json.loads((ran / name / f"rank-{rank}.json").read_text())
        np.testing.assert_allclose(seen, losses, rtol=1e-6)


def configure(root: Path, *overrides: str) -> Config:
    """A configuration under ``root`` whose file says all that the overrides say."""
    config = make_config(root, "model.dropout=0.0", "train.shuffle_rows=120", *overrides)
    (root / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


# Rows of the files, for some workers too few: (train, valid).
FILES = {
    "uneven": ([70, 300, 10, 142, 50, 33], [60, 7, 40]),
    "fewer files than workers": ([130, 90, 20], [50]),
    "an epoch with an empty worker": ([90], [30, 30]),
}


def take_epoch_alone(
    step: TrainStep, config: Config, manifest: Manifest, world_size: int, at: Position
) -> int:
    """The rest of an epoch as ``world_size`` workers take it, by one on the joined batches."""
    train = manifest.splits["train"]
    plan = plan_epoch(
        [file.rows for file in train.files],
        world_size=world_size,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        epoch=at.epoch,
        shuffle_rows=config.train.shuffle_rows,
        done=at.done,
    )
    paths = [f"{config.features.path}/{file.path}" for file in train.files]
    streams = [
        stream_batches(blocks, paths, manifest.fields, batch_rows=rows)
        for blocks, rows in zip(plan.blocks, plan.batch_rows, strict=True)
    ]
    for number in range(plan.steps):
        batches = [batch for stream in streams if (batch := next(stream, None))]
        assert sum(map(len, batches)) == sum(plan.rows_of_step(number))
        step(joined(batches), sum(map(len, batches)))
    return plan.steps


def validate_alone(step: TrainStep, config: Config, manifest: Manifest) -> dict[str, float]:
    valid = manifest.splits["valid"]
    paths = [f"{config.features.path}/{file.path}" for file in valid.files]
    blocks = [Block((i,), file.rows, None) for i, file in enumerate(valid.files)]
    (batch,) = stream_batches(blocks, paths, manifest.fields, batch_rows=valid.rows)
    return binary_metrics(step.predict(batch).numpy(), batch.label_B.double().numpy())


def compare_with_alone(step: TrainStep, taken: int, directory: Path, scratch: Path) -> None:
    """The parameters and optimiser states of the last checkpoint of a run against a step's."""
    writer = CheckpointWriter(scratch, Alone(), 1, 60.0)
    writer.write(step, Position(step=taken))
    writer.wait()
    expected = everything(list_checkpoints(scratch)[0])
    found = everything(list_checkpoints(directory / "checkpoints")[0])
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key], **EXACT, msg=key)


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
@pytest.mark.parametrize(("world_size", "files"), list(zip(WORLDS, FILES, strict=True)))
def test_a_training_equals_one_worker_on_the_concatenated_batches(
    tmp_path: Path, world_size: int, files: str, placement: str
) -> None:
    """Out of Parquet, with validation: the last batches have rows on some workers only."""
    config = configure(tmp_path, "train.epochs=3", f"train.placement={placement}")
    manifest = write_features(config, *FILES[files])
    run_workers(world_size, "tests.distributed.fit", tmp_path)

    step = build_step(config, manifest.num_features, Alone(), dtype=torch.float64)
    taken, aucs = 0, []
    for epoch in range(3):
        taken += take_epoch_alone(step, config, manifest, world_size, Position(epoch=epoch))
        aucs.append(validate_alone(step, config, manifest)["auc"])
    compare_with_alone(step, taken, tmp_path, tmp_path / "alone")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]["auc"] == pytest.approx(max(aucs), abs=1e-6)


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_a_stopped_training_goes_on_with_any_number_of_workers(
    tmp_path: Path, placement: str
) -> None:
    """Two workers stop in the middle of an epoch; two, and three, take what is left of it."""
    config = configure(tmp_path, "train.epochs=2", f"train.placement={placement}")
    manifest = write_features(config, *FILES["uneven"])
    run_workers(2, "tests.distributed.fit", tmp_path, 3)
    (stopped,) = list_checkpoints(tmp_path / "checkpoints")
    assert read_position(stopped).done == (Phase(world_size=2, steps=3),)
    for world_size in (2, 3):
        run = tmp_path / f"on-{world_size}"
        shutil.copytree(tmp_path / "checkpoints", run / "checkpoints")
        shutil.copy(tmp_path / "config.yaml", run)
        run_workers(world_size, "tests.distributed.fit", run)

        step = build_step(config, manifest.num_features, Alone(), dtype=torch.float64)
        if world_size == 2:  # as if nothing had happened
            at = Position()
        else:
            restore(step, stopped)
            at = read_position(stopped)
        taken = take_epoch_alone(step, config, manifest, world_size, at)
        taken += take_epoch_alone(step, config, manifest, world_size, Position(epoch=1))
        compare_with_alone(step, at.step + taken, run, tmp_path / f"alone-{world_size}")


def joined(batches: list[Batch]) -> Batch:
    return Batch(
        torch.cat([batch.ids_BS for batch in batches]),
        torch.cat([batch.x_BS for batch in batches]),
        torch.cat([batch.label_B for batch in batches]),
    )
