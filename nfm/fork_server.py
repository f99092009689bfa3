"""Starts the only worker of trainings by forking: ``python -m nfm.fork_server``.

To import torch, Petastorm and Horovod takes longer than many a trial of ``jobs.tune`` trains. This
process has imported them, and runs no threads, which a fork would lose. Each line of its input is
the directory of a run and an environment, as JSON; it forks a process that holds a worker
(``nfm.lifeline``) in this environment, and answers with the exit code of that.
"""

import json
import multiprocessing
import os
import sys
from typing import IO

from nfm import worker
from nfm.lifeline import ADDRESS, RANK, end_with_parent, hold_worker

_FORK = multiprocessing.get_context("fork")


class ForkedWorker:
    """A worker forked from this process; looks as one that was started by ``subprocess``.

    Args:
        run: Directory of the run.
        descriptor: Open file that it says to why it failed.
    """

    def __init__(self, run: str, descriptor: int) -> None:
        reading, writing = os.pipe()
        self._process = _FORK.Process(target=_work, args=(run, descriptor, writing))
        self._process.start()
        os.close(writing)
        self.stdout: IO[str] | None = os.fdopen(reading, errors="replace")
        self.pid = self._process.pid or 0
        self.terminate, self.kill = self._process.terminate, self._process.kill

    def send_signal(self, number: int) -> None:
        """Send a signal, if it is still there."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end; its exit code, or minus the signal that ended it."""
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def main() -> None:
    """Fork for every line, one after the other."""
    for line in sys.stdin:
        holder = _FORK.Process(target=_hold, args=json.loads(line))
        holder.start()
        holder.join()
        print(holder.exitcode, flush=True)


def _hold(run: str, environment: dict[str, str]) -> None:
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # answers are not its own to give
    os.environ.update(environment)
    hold_worker(run, ForkedWorker)


def _work(run: str, descriptor: int, output: int) -> None:
    end_with_parent()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    for name in (ADDRESS, RANK):  # Horovod would look for others there
        del os.environ[name]
    worker.main(run, descriptor)


if __name__ == "__main__":
    main()
