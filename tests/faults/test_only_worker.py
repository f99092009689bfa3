"""The only worker of a training, forked (``nfm.launch.forked``): no horovodrun watches it."""

import signal
from pathlib import Path

import psutil

from tests.e2e.training_under_test import TIMEOUT_S, Training, assert_same_weights, wait_until

ONE = {
    "train.num_workers": 1,
    "train.epochs": 16,  # a second each
    "train.stall_timeout_s": 25,
    "train.max_restarts": 5,
}


def chain(training: Training) -> tuple[psutil.Process, ...]:
    """The server that forks, the process that holds the worker, and the worker."""

    def found() -> list[psutil.Process]:
        return psutil.Process(training.job.pid).children(recursive=True)

    wait_until(lambda: len(found()) == 3, "the worker")
    server, holder, worker = found()
    assert "nfm.fork_server" in server.cmdline()
    assert (holder.ppid(), worker.ppid()) == (server.pid, holder.pid)
    return server, holder, worker


def test_its_end_and_that_of_what_holds_it(root: Path, tmp_path: Path) -> None:
    alone = Training(root, tmp_path / "alone", ONE)
    code, output = alone.end()
    assert code == 0, output

    struck = Training(root, tmp_path / "struck", ONE)
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
        struck.wait_for_step(*divmod(30 * attempt, 66))
        processes = chain(struck)
        processes[victim].send_signal(strike)
        processes[2].wait(TIMEOUT_S)
    code, output = struck.end()
    assert code == 0, output
    for number in range(1, 6):
        assert f"attempt {number} of 6 failed: " in output, output
    assert "no step for 2" in output, output
    assert_same_weights(struck.weights(), alone.weights())


def test_the_end_of_its_launcher(root: Path, tmp_path: Path) -> None:
    alone = Training(root, tmp_path / "alone", ONE)
    code, output = alone.end()
    assert code == 0, output

    for event, resume, epoch, step, expected in [
        (signal.SIGINT, (), 0, 15, 130),
        (signal.SIGTERM, ("--resume",), 1, 5, 4),
        (signal.SIGKILL, ("--resume",), 2, 5, -signal.SIGKILL),
    ]:
        cut = Training(root, tmp_path / "cut", ONE, resume)
        cut.wait_for_step(epoch, step)
        cut.job.send_signal(event)
        code, output = cut.end()
        assert code == expected, output
        cut.assert_unpublished()
    resumed = Training(root, tmp_path / "cut", ONE, ["--resume"])
    code, output = resumed.end()
    assert code == 0, output
    assert_same_weights(resumed.weights(), alone.weights())
