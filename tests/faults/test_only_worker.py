"""The only worker of a training, forked (``nfm.launch.forked``): no horovodrun watches it."""

import signal
from pathlib import Path

import psutil
import pytest
import torch

from tests.e2e.training_under_test import TIMEOUT_S, Training, assert_same_weights, wait_until

ONE = {
    "train.num_workers": 1,
    "train.epochs": 16,  # a second each
    "train.stall_timeout_s": 25,
    "train.max_restarts": 5,
}
STEPS = 66  # of an epoch


@pytest.fixture(scope="module")
def expected(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a training that is left alone."""
    alone = Training(root, tmp_path_factory.mktemp("alone"), ONE)
    code, output = alone.end()
    assert code == 0, output
    return alone.weights()


def chain(training: Training) -> tuple[psutil.Process, ...]:
    """The server that forks, the process that holds the worker, and the worker."""

    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = psutil.Process(training.job.pid).children(recursive=True)
        return len(found) == 3

    wait_until(there, "the worker")
    server, holder, worker = found
    assert "nfm.fork_server" in server.cmdline()
    assert (holder.ppid(), worker.ppid()) == (server.pid, holder.pid)
    return server, holder, worker


def test_its_end_and_that_of_what_holds_it(
    root: Path, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    struck = Training(root, tmp_path, ONE)
    for attempt, (victim, strike) in enumerate(
        [
            (2, signal.SIGKILL),
            (1, signal.SIGKILL),
            (0, signal.SIGKILL),
            (2, signal.SIGTERM),  # to the worker by itself: its machine is taken away
            (2, signal.SIGSTOP),
        ],
        1,
    ):
        struck.wait_for_attempt(attempt)
        struck.wait_for_step(*divmod(30 * attempt, STEPS))
        processes = chain(struck)
        processes[victim].send_signal(strike)
        processes[2].wait(TIMEOUT_S)
    code, output = struck.end()
    assert code == 0, output
    for number in range(1, 6):
        assert f"attempt {number} of 6 failed: " in output, output
    assert "no step for 2" in output, output
    assert_same_weights(struck.weights(), expected)


def test_the_end_of_its_launcher(
    root: Path, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    for event, resume, epoch, step, ending in [
        (signal.SIGINT, (), 0, 15, 130),
        (signal.SIGTERM, ("--resume",), 1, 5, 4),
        (signal.SIGKILL, ("--resume",), 2, 5, -signal.SIGKILL),
    ]:
        cut = Training(root, tmp_path, ONE, resume)
        cut.wait_for_step(epoch, step)
        cut.job.send_signal(event)
        code, output = cut.end()
        assert code == ending, output
        cut.assert_unpublished()
    resumed = Training(root, tmp_path, ONE, ["--resume"])
    code, output = resumed.end()
    assert code == 0, output
    assert_same_weights(resumed.weights(), expected)
