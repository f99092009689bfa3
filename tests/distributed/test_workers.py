"""Two, three and four real Horovod processes against one on the concatenated batches."""

import json
import math
import shutil
import subprocess
import sys
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from conf.loader import load_config
from conf.manifest import Manifest, read_manifest
from conf.schema import Config
from nfm.checkpoint import Position, list_checkpoints, read_position, restore
from nfm.checkpoint_writer import CheckpointWriter
from nfm.collectives import Alone
from nfm.epoch_plan import Block, Phase, plan_epoch
from nfm.metrics import metrics
from nfm.objective import Objective
from nfm.step import TrainStep, build_step
from nfm.stream import stream_batches
from nfm.tally import Tallier
from tests.data import make_config
from tests.distributed.cases import (
    CASES,
    PLACEMENTS,
    STOP_AFTER,
    TRAFFIC,
    WORLDS,
    batches_of,
    cases_of,
    everything,
    joined,
    run_case,
    tally_of_ranks,
)
from tests.distributed.features import write_features
from tests.distributed.local_norm import train_local

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


# Rows of the (train, valid) files, for some workers too few.
FILES = {
    2: ([70, 300, 10, 142, 50, 33], [60, 7, 40]),
    3: ([130, 90], [50]),
    4: ([90], [30, 30]),
}


SCHEDULE = "train.optimizer.schedule={warmup_steps: 4, decay: cosine, final: 0.1}"


def configure(directory: Path, features: Path, placement: str, *more: str) -> Config:
    """Put a configuration into a directory of its own."""
    directory.mkdir(parents=True)
    config = make_config(
        directory,
        "model.dropout=0.0",
        "train.shuffle_rows=120",
        "train.epochs=2",
        SCHEDULE,
        f"train.placement={placement}",
        f"features.path={features}",
        "evaluate.group_by=user",
        *more,
    )
    (directory / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two, three and four workers left, each in a directory of that name."""
    root = tmp_path_factory.mktemp("workers")
    for world_size in WORLDS:
        directory = root / str(world_size)
        features = directory / "features"
        weight = () if world_size == 3 else ("weight=importance",)
        for placement in PLACEMENTS:
            config = configure(directory / f"fit-{placement}", features, placement, *weight)
        write_features(config, *FILES[world_size])
        for placement in PLACEMENTS:
            if world_size == 2:
                for number in (1, 2):
                    again = directory / f"again-{number}-{placement}"
                    configure(again, features, placement, *weight, "model.dropout=0.3")
                configure(directory / f"stop-{placement}", features, placement, *weight)
            elif world_size == 3:
                shutil.copytree(root / "2" / f"stop-{placement}", directory / f"fit-on-{placement}")
        run_workers(world_size, "tests.distributed.worker", directory)
    return root


@pytest.mark.parametrize(
    ("name", "world_size"), [(name, world) for world in WORLDS for name in cases_of(world)]
)
def test_workers_equal_one_on_the_concatenated_batches(
    ran: Path, tmp_path: Path, name: str, world_size: int
) -> None:
    left = ran / str(world_size) / name
    losses = run_case(CASES[name], Alone(), world_size, tmp_path)
    expected = everything(list_checkpoints(tmp_path)[0])
    found = everything(list_checkpoints(left)[0])
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key], **EXACT, msg=key)
    for rank in range(world_size):
        seen = json.loads((left / f"rank-{rank}.json").read_text())
        np.testing.assert_allclose(seen, losses, rtol=1e-6)


@pytest.mark.parametrize("world_size", WORLDS)
def test_local_batch_norm_equals_torchs_on_the_rows_of_each(
    ran: Path, tmp_path: Path, world_size: int
) -> None:
    """Running statistics count by their rows; of three workers one never has any."""
    found = everything(list_checkpoints(ran / str(world_size) / "local")[0])
    for name, tensor in train_local(tmp_path, world_size).items():
        torch.testing.assert_close(found[name], tensor, **EXACT, msg=name)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("world_size", WORLDS)
def test_traffic_stays_the_same_when_features_grow(
    ran: Path, world_size: int, placement: str
) -> None:
    """And is: ids of 4 bytes, rows and gradients of 9 numbers, gradients of the layers, sums."""
    (batches,) = batches_of(TRAFFIC, world_size)
    distinct = [set(batch.ids_BS.flatten().tolist()) for batch in batches]
    parameters = 1 + 2 * 8 + 8 * 16 + 2 * 16 + 16  # w0, norm, layer, norm, prediction
    statistics = sum(4 * width + 1 for width in (8, 16))  # there and back
    for rank, mine in enumerate(distinct):
        numbers = parameters + 3 + statistics + 9 * len(mine)
        if placement == "sharded":
            numbers += 9 * sum(i % world_size == rank for ids in distinct for i in ids)
        sent, _ = json.loads((ran / str(world_size) / placement / f"rank-{rank}.json").read_text())
        assert sent == [8 * numbers + 4 * len(mine)] * 2


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("world_size", WORLDS)
def test_all_leave_out_a_step_in_which_one_workers_gradient_is_infinite(
    ran: Path, world_size: int, placement: str
) -> None:
    for rank in range(world_size):
        path = ran / str(world_size) / placement / f"rank-{rank}.json"
        assert json.loads(path.read_text())[1] is False


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
        stream_batches(
            blocks, paths, manifest.fields, batch_rows=rows, weighted=manifest.weight is not None
        )
        for blocks, rows in zip(plan.blocks, plan.batch_rows, strict=True)
    ]
    taken = sum(phase.steps for phase in at.done)
    for number in range(plan.steps):
        batches = [batch for stream in streams if (batch := next(stream, None))]
        assert sum(map(len, batches)) == sum(plan.rows_of_step(number))
        progress = (at.epoch + (taken + number) / (taken + plan.steps)) / 2
        factor = min((at.step + number + 1) / 4, 1) * (0.55 + 0.45 * math.cos(math.pi * progress))
        step(joined(batches), sum(map(len, batches)), factor=factor)
    return plan.steps


def validate_alone(step: TrainStep, config: Config, manifest: Manifest) -> dict[str, float]:
    valid = manifest.splits["valid"]
    paths = [f"{config.features.path}/{file.path}" for file in valid.files]
    blocks = [Block((i,), file.rows, None) for i, file in enumerate(valid.files)]
    (batch,) = stream_batches(blocks, paths, manifest.fields, batch_rows=valid.rows)
    tallier = Tallier(manifest.fields, ["user"])
    tallier.add(step.predict(batch), batch)
    return metrics(tallier.tally(), Objective.of(config, manifest), manifest.field("user"))


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


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("world_size", WORLDS)
def test_a_training_equals_one_worker_on_the_concatenated_batches(
    ran: Path, tmp_path: Path, world_size: int, placement: str
) -> None:
    """Out of Parquet, with validation: uneven row groups, fewer of them than workers, no rows."""
    run = ran / str(world_size) / f"fit-{placement}"
    config, manifest = loaded(run)
    step = build_step(config, manifest.fields, Alone(), dtype=torch.float64)
    taken, validated = 0, []
    for epoch in range(2):
        at = Position(epoch=epoch, step=taken)
        taken += take_epoch_alone(step, config, manifest, world_size, at)
        validated.append(validate_alone(step, config, manifest))
    compare_with_alone(step, taken, run, tmp_path)
    result = json.loads((run / "result.json").read_text())
    best = max(validated, key=itemgetter("auc"))
    assert result["metrics"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("world_size", WORLDS)
def test_metrics_of_workers_are_those_of_one_to_the_bit(ran: Path, world_size: int) -> None:
    alone = metrics(tally_of_ranks(range(world_size)), Objective("binary", "logistic"))
    assert alone["rows"] == 400 * (world_size - 1)
    for rank in range(world_size):
        assert json.loads((ran / str(world_size) / f"metrics-{rank}.json").read_text()) == alone


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    ran: Path, tmp_path: Path, placement: str
) -> None:
    run = ran / "2" / f"resumed-{placement}"
    config, manifest = loaded(run)
    step = build_step(config, manifest.fields, Alone(), dtype=torch.float64)
    taken = take_epoch_alone(step, config, manifest, 2, Position())
    taken += take_epoch_alone(step, config, manifest, 2, Position(epoch=1, step=taken))
    compare_with_alone(step, taken, run, tmp_path)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_stopped_training_goes_on_with_another_number_of_workers(
    ran: Path, tmp_path: Path, placement: str
) -> None:
    """Two workers stopped in the middle of an epoch; three take what is left of it."""
    (stopped,) = list_checkpoints(ran / "2" / f"stop-{placement}" / "checkpoints")
    at = read_position(stopped)
    assert (at.step, at.done) == (STOP_AFTER, (Phase(world_size=2, steps=STOP_AFTER),))
    run = ran / "3" / f"fit-on-{placement}"
    config, manifest = loaded(run)
    step = build_step(config, manifest.fields, Alone(), dtype=torch.float64)
    restore(step, stopped)
    taken = at.step + take_epoch_alone(step, config, manifest, 3, at)
    taken += take_epoch_alone(step, config, manifest, 3, Position(epoch=1, step=taken))
    compare_with_alone(step, taken, run, tmp_path)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_same_training_again_ends_in_the_same_metrics(ran: Path, placement: str) -> None:
    """In float32, with dropout: the same configuration, seed, data and number of workers."""
    runs = [ran / "2" / f"again-{number}-{placement}" for number in (1, 2)]
    first, second = (json.loads((run / "result.json").read_text()) for run in runs)
    assert second.pop("metrics") == pytest.approx(first.pop("metrics"), abs=1e-6)
    assert first == second
    found, expected = (everything(list_checkpoints(run / "checkpoints")[0]) for run in runs)
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key], **EXACT, msg=key)


def loaded(run: Path) -> tuple[Config, Manifest]:
    config = load_config(f"{run}/config.yaml")
    return config, read_manifest(config.features.path)
