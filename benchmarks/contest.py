"""Contestants: processes that stand ready and take a repetition whenever they are asked.

All stay up while they take turns, so that a machine that drifts drifts under everybody. Needs the
standard library alone: the peers' environment imports it too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# Marks our lines among what libraries print.
_PREFIX = "contest: "
_WARM_UP = 3


@dataclass(frozen=True)
class Repetition:
    """Rows taken, and how long they took."""

    rows: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


def serve(step: Callable[[], int], warm_up: int = _WARM_UP) -> None:
    """Answer each line on stdin, a number of seconds, with a repetition at least that long.

    Args:
        step: What is timed; returns the rows it took.
        warm_up: Calls of it before the first repetition.
    """
    for _ in range(warm_up):
        step()
    print(f"{_PREFIX}ready", flush=True)
    for line in sys.stdin:
        rows, began, seconds = 0, time.perf_counter(), float(line)
        while (taken := time.perf_counter() - began) < seconds or not rows:
            rows += step()
        print(f"{_PREFIX}{json.dumps([rows, taken])}", flush=True)


class ContestantError(Exception):
    """A contestant could not start or died; says why."""


class Contestant:
    """A process that ``serve``s.

    Args:
        command: Its command line.
        log: Where its stderr goes.
        threads: Computing threads.
    """

    def __init__(self, command: Sequence[str], log: Path, threads: int) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | dict.fromkeys(names, str(threads)),
            )

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def ready(self) -> None:
        """Wait until it has warmed up."""
        self._answer()

    def repeat(self, seconds: float) -> Repetition:
        """Have it take one repetition of at least so many seconds."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        return Repetition(*json.loads(self._answer()))

    def _answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(_PREFIX):
                return line.removeprefix(_PREFIX).strip()
        said = self.log.read_text().strip().splitlines() or ["it said nothing"]
        raise ContestantError(f"exit {self.process.wait()}: {said[-1]} (all of it: {self.log})")
