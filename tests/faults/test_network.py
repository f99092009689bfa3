"""Training across two machines, and the network between them cut."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.e2e.training_under_test import (
    Training,
    assert_same_weights,
    processes_of,
    wait_until,
    workers_of,
)
from tests.faults.machines import Machines, lacking, two_machines

pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking() or "")
Weights = dict[str, torch.Tensor]
# Who does not answer for 30 s is lost; then processes end.
NOTICED_S = 60.0


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with two_machines(tmp_path_factory.mktemp("machines")) as made:
        yield made


def train(
    machines: Machines, root: Path, place: Path, sets: dict[str, object], *more: str
) -> Training:
    return Training(root, place, sets, ["--hosts", machines.hosts, *more], machines.train)


def test_two_machines_train_as_one_does(
    machines: Machines, root: Path, tmp_path: Path, undisturbed: Weights
) -> None:
    training = train(machines, root, tmp_path, {})
    training.wait_for_step(0, 1)
    commands = [" ".join(process.cmdline()) for process in processes_of(tmp_path)]
    assert any(command.startswith("ssh ") and "10.99.0.2" in command for command in commands)
    code, output = training.end()
    assert code == 0, output
    assert_same_weights(training.weights(), undisturbed)


def test_a_machine_off_the_network_for_a_while(
    machines: Machines, root: Path, tmp_path: Path, undisturbed: Weights
) -> None:
    training = train(machines, root, tmp_path, {"train.restart_backoff_s": 15})
    training.wait_for_step(0, 25)
    cut_at = time.monotonic()
    machines.pull_cable()
    try:
        wait_until(lambda: not workers_of(tmp_path), "the end of the workers")
        assert time.monotonic() - cut_at < NOTICED_S
    finally:
        machines.plug_in()
    code, output = training.end()
    assert code == 0, output
    assert "attempt 1 of 4 failed: lost contact with worker 1 on " in output
    assert_same_weights(training.weights(), undisturbed)


def test_kill_9_of_the_launcher_of_two_machines(
    machines: Machines, root: Path, tmp_path: Path, undisturbed: Weights
) -> None:
    killed = train(machines, root, tmp_path, {})
    killed.wait_for_step(0, 25)
    killed.job.kill()
    code, output = killed.end()  # which waits for all processes, on both machines
    assert code == -signal.SIGKILL, output
    killed.assert_unpublished()

    resumed = train(machines, root, tmp_path, {}, "--resume")
    code, output = resumed.end()
    assert code == 0, output
    assert "going on after step" in output
    assert_same_weights(resumed.weights(), undisturbed)


def test_packets_that_are_dropped_from_now_on(
    machines: Machines, root: Path, tmp_path: Path, undisturbed: Weights
) -> None:
    training = train(machines, root, tmp_path, {"train.max_restarts": 1})
    training.wait_for_step(0, 25)
    machines.switch("down")
    try:
        code, output = training.end()  # which waits for all processes, on both machines
    finally:
        machines.switch("up")
    assert code == 4, output
    assert "attempt 1 of 2 failed: lost contact with worker 1 on " in output
    assert "training stopped 2 times, at last: the workers could not be started: " in output
    assert "ssh" in output.rpartition("error: ")[2], output
    training.assert_unpublished()

    resumed = train(machines, root, tmp_path, {}, "--resume")
    code, output = resumed.end()
    assert code == 0, output
    assert_same_weights(resumed.weights(), undisturbed)
