"""kill -9 of anything that works for a training, SIGTERM, Ctrl-C and a stopped worker."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from nfm.checkpoint import list_checkpoints
from tests.e2e.training_under_test import (
    TIMEOUT_S,
    Training,
    assert_same_weights,
    wait_until,
    write_data,
)

STEPS = 88  # of an epoch
Weights = dict[str, torch.Tensor]


def horovodrun(training: Training) -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process(training.job.pid).children()
        if "horovod.runner.launch" in child.cmdline()
    ]
    return found


def lifeline(training: Training, rank: int) -> psutil.Process:
    parent = training.worker(rank).parent()
    assert parent
    return parent


STRIKES: dict[str, Callable[[Training], None]] = {
    "kill -9 of worker 0": lambda training: training.worker(0).kill(),
    "kill -9 of worker 1": lambda training: training.worker(1).kill(),
    "kill -9 of the lifeline of worker 1": lambda training: lifeline(training, 1).kill(),
    "kill -9 of horovodrun": lambda training: horovodrun(training).kill(),
    "SIGTERM to worker 1": lambda training: training.worker(1).terminate(),
}


def test_the_end_of_any_process_at_any_step(
    root: Path, tmp_path: Path, chance: random.Random
) -> None:
    epochs = 6
    alone = Training(root, tmp_path / "alone", {"train.epochs": epochs})
    code, output = alone.end()
    assert code == 0, output

    strikes = chance.sample(sorted(STRIKES), len(STRIKES))
    moments = sorted(chance.sample(range(1, (epochs - 1) * STEPS), len(strikes)))
    sets = {"train.epochs": epochs, "train.max_restarts": len(strikes) + 1}
    training = Training(root, tmp_path / "struck", sets)
    training.worker(chance.randrange(2)).kill()  # before it has found the others
    for attempt, (strike, moment) in enumerate(zip(strikes, moments, strict=True), 2):
        training.wait_for_attempt(attempt)
        training.wait_for_step(*divmod(moment, STEPS))
        print(f"{strike} at step {moment}")
        STRIKES[strike](training)
    code, output = training.end()
    assert code == 0, output
    assert output.count(" failed: ") == len(strikes) + 1, output
    assert_same_weights(training.weights(), alone.weights())


def kill_while_it_writes(victim: psutil.Process, place: Path, pattern: str) -> None:
    """Kill a process when something is half-written: there, but under a hidden name."""

    def half_written() -> list[Path]:
        return list(place.glob(pattern))

    while victim.is_running():
        wait_until(half_written, "something half-written", poll_s=0.0005)
        victim.suspend()
        if half_written():
            victim.kill()
            return
        victim.resume()
    raise AssertionError("it ended before it could be killed")


def test_kill_9_while_a_checkpoint_is_being_written(root: Path, tmp_path: Path) -> None:
    """Of a sharded table, so that each worker writes a part."""
    sharded = {"train.placement": "sharded"}
    alone = Training(root, tmp_path / "alone", sharded)
    code, output = alone.end()
    assert code == 0, output

    training = Training(root, tmp_path / "killed", sharded)
    half_written = training.place, "work/*/checkpoints/.step-*"
    for attempt, rank in enumerate((1, 0), 1):
        training.wait_for_attempt(attempt)
        kill_while_it_writes(training.worker(rank), *half_written)
    training.wait_for_attempt(3)
    training.wait_for_step(0, 1)
    training.wait_for_files("checkpoints/step-*")  # both may have been killed at the first one
    kill_while_it_writes(psutil.Process(training.job.pid), *half_written)
    code, output = training.end()
    assert code == -signal.SIGKILL, output
    training.assert_unpublished()

    resumed = Training(root, tmp_path / "killed", sharded, arguments=["--resume"])
    code, output = resumed.end()
    assert code == 0, output
    assert_same_weights(resumed.weights(), alone.weights())


def test_kill_9_while_the_bundle_is_being_written(tmp_path: Path, undisturbed: Weights) -> None:
    root = tmp_path / "root"
    write_data(root)
    vocabulary = root / "features/v1/vocabulary"
    vocabulary.mkdir()
    with (vocabulary / "large.parquet").open("wb") as file:
        file.truncate(2**28)  # takes a while to copy
    killed = Training(root, tmp_path / "place")
    kill_while_it_writes(psutil.Process(killed.job.pid), killed.place, "models/.*.staging-*")
    code, output = killed.end()
    assert code == -signal.SIGKILL, output
    assert not list(killed.place.glob("models/[!.]*")), "published"

    resumed = Training(root, tmp_path / "place", arguments=["--resume"])
    code, output = resumed.end()
    assert code == 0, output
    assert "=== attempt 2" not in (resumed.run / "workers.log").read_text(), "trained again"
    assert_same_weights(resumed.weights(), undisturbed)


def damage_newest_checkpoint(training: Training) -> None:
    tensors = list_checkpoints(training.run / "checkpoints")[0] / "dense.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)


def test_a_training_cut_short_again_and_again_ends_as_one_left_alone(
    root: Path, tmp_path: Path, undisturbed: Weights
) -> None:
    for event, resume, epoch, step, code, messages in [
        (signal.SIGINT, (), 0, 15, 130, ("interrupted: what was under way", "goes on from its")),
        (signal.SIGKILL, ("--resume",), 0, 35, -signal.SIGKILL, ()),
        (signal.SIGTERM, ("--resume",), 1, 5, 4, ("is damaged", "stopped as asked after step")),
    ]:
        cut = Training(root, tmp_path, arguments=resume)
        cut.wait_for_step(epoch, step)
        cut.job.send_signal(event)
        found, output = cut.end()
        assert found == code, output
        assert all(message in output for message in messages), output
        assert "Traceback" not in output.split("error:")[0]
        cut.assert_unpublished()
        if event == signal.SIGKILL:
            damage_newest_checkpoint(cut)
    resumed = Training(root, tmp_path, arguments=["--resume", cut.run.name])
    code, output = resumed.end()
    assert code == 0, output
    assert_same_weights(resumed.weights(), undisturbed)


def test_another_number_of_workers_goes_on_where_the_launcher_was_killed(
    root: Path, tmp_path: Path, chance: random.Random, left_alone: Training
) -> None:
    """Other rows share a batch then, so that weights differ; a row read twice or not would show."""
    moment = chance.randrange(15, STEPS)
    print(f"kill -9 of the launcher at step {moment}")
    killed = Training(root, tmp_path)
    killed.wait_for_step(0, moment)
    killed.job.kill()
    code, output = killed.end()
    assert code == -signal.SIGKILL, output
    killed.assert_unpublished()

    resumed = Training(root, tmp_path, arguments=["--resume", "--num-workers=3"])
    code, output = resumed.end()
    assert code == 0, output
    assert "going on after step" in output
    assert resumed.weights()["table.weight"].isfinite().all()
    found, expected = resumed.epochs(), left_alone.epochs()
    assert [epoch["epoch"] for epoch in found] == [0, 1]
    for one, other in zip(found, expected, strict=True):
        assert one["valid_rows"] == other["valid_rows"] == 225
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)


def test_a_worker_that_hangs_is_replaced_and_in_the_end_named(
    root: Path, tmp_path: Path, undisturbed: Weights
) -> None:
    patience = {"train.stall_timeout_s": 25, "train.max_restarts": 1}
    training = Training(root, tmp_path, patience)
    for attempt, rank in ((1, 1), (2, 0)):
        training.wait_for_attempt(attempt)
        training.wait_for_step(0, 20)
        worker = training.worker(rank)
        worker.suspend()
        worker.wait(TIMEOUT_S)
    code, output = training.end()
    assert code == 4, output
    for what in ("attempt 1 of 2 failed", "training stopped 2 times, at last"):
        assert f"{what}: no step for 2" in output, output
    assert f"process {worker.pid} of the worker: T (stopped)" in output
    training.assert_unpublished()

    resumed = Training(root, tmp_path, {**patience, "train.max_restarts": 0}, ["--resume"])
    code, output = resumed.end()
    assert code == 0, output
    assert_same_weights(resumed.weights(), undisturbed)
