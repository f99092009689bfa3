"""Contestants: processes that stand ready and take a repetition whenever they are asked.

All stay up while they take turns, so that a machine that drifts drifts under everybody. Needs the
standard library alone: the peers' environment imports it too.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Marks our lines among what libraries print.
_PREFIX = "contest: "
_WARM_UP = 3
_LEAVE_S = 30.0


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
        environment: Variables it has beside ours.
    """

    def __init__(
        self, command: Sequence[str], log: Path, threads: int, environment: Mapping[str, str]
    ) -> None:
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
                start_new_session=True,
                env=os.environ | dict.fromkeys(names, str(threads)) | environment,
            )

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        """End it: at the end of its input it leaves by itself, and takes its children along."""
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self.process.communicate(timeout=_LEAVE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ready(self) -> None:
        """Wait until it has warmed up.

        Raises:
            ContestantError: It died.
        """
        self._answer()

    def repeat(self, seconds: float) -> Repetition:
        """Have it take one repetition of at least so many seconds."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            print(seconds, file=self.process.stdin, flush=True)
        return Repetition(*json.loads(self._answer()))

    def _answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(_PREFIX):
                return line.removeprefix(_PREFIX).strip()
        said = self.log.read_text().strip().splitlines() or ["it said nothing"]
        raise ContestantError(f"exit {self.process.wait()}: {said[-1]} (all of it: {self.log})")


@dataclass(frozen=True)
class Entry:
    """A contestant to be.

    Attributes:
        name: Among the others.
        command: Its command line.
        threads: Its computing threads.
        environment: Variables it has beside ours.
    """

    name: str
    command: tuple[str, ...]
    threads: int
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Standings:
    """What came of it.

    Attributes:
        rates: Rows per second of every repetition, by name.
        failures: Why the others are missing.
    """

    rates: dict[str, list[float]]
    failures: dict[str, str]


def take_turns(entries: Sequence[Entry], logs: Path, rounds: int, seconds: float) -> Standings:
    """Start all, then let them take repetitions in turns: A B C, A B C, ...

    One that fails is out, and stops none of the others.
    """
    standings = Standings({}, {})
    with contextlib.ExitStack() as stack:
        running = {
            entry.name: stack.enter_context(
                Contestant(
                    entry.command, logs / f"{entry.name}.log", entry.threads, entry.environment
                )
            )
            for entry in entries
        }

        def attempt(name: str, act: Callable[[Contestant], Repetition | None]) -> None:
            try:
                repetition = act(running[name])
            except ContestantError as error:
                running.pop(name)
                standings.rates.pop(name, None)
                standings.failures[name] = str(error)
            else:
                if repetition:
                    standings.rates.setdefault(name, []).append(repetition.rate)

        for name in list(running):
            attempt(name, Contestant.ready)
        for _ in range(rounds):
            for name in list(running):
                attempt(name, lambda contestant: contestant.repeat(seconds))
    return standings
