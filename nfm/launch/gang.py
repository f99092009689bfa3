"""A gang: the workers of a training that were started together, and end together."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from tqdm import tqdm

from conf.schema import Config
from nfm.lifeline import end_with_parent


class Gang(Protocol):
    """Workers that were started together."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for their end; whether they have ended."""

    def succeeded(self) -> bool:
        """Whether all ended well."""


# Starts the workers of a run with an environment added to theirs; what they and their starter say
# goes to a log. The block ends when the workers do or have been killed through their lifelines.
StartGang = Callable[[Config, Path, dict[str, str], "WorkersLog"], AbstractContextManager[Gang]]


class WorkersLog:
    """All that the workers of an attempt say goes to a file, and to the screen, too.

    Args:
        path: Of the file, which may hold earlier attempts.
        attempt: Its number, from 1.
    """

    def __init__(self, path: Path, attempt: int) -> None:
        self._path, self._file = path, path.open("a", errors="replace")
        self._begin = self._file.tell()
        self._lock = threading.Lock()
        self.write(f"=== attempt {attempt}\n")

    def __enter__(self) -> "WorkersLog":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def write(self, line: str) -> None:
        """Add a line of whoever starts the workers."""
        with self._lock, contextlib.suppress(OSError):  # a full disk: training may still go on
            self._file.write(line)
            self._file.flush()

    def hear(self, rank: int, line: str) -> None:
        """Add a line that a worker said, which somebody at the screen should see, too."""
        self.write(f"[{rank}] {line}")
        tqdm.write(line, file=sys.stderr, end="")

    def text(self) -> str:
        """All that this attempt has said, as far as it could be written."""
        with self._path.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")


def environment_of_workers() -> dict[str, str]:
    """Where workers find our code: in the checkout, or in what spark-submit unpacked."""
    return {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


@contextlib.contextmanager
def start_horovodrun(
    config: Config, run: Path, environment: dict[str, str], log: WorkersLog
) -> Iterator["HorovodrunGang"]:
    """Start the workers on this machine, or by ssh on those of ``train.hosts``."""
    number = str(config.train.num_workers)
    hosts = config.train.hosts or f"localhost:{number}"
    # Its cache would hold that a host can be reached and through which interface: for an hour.
    command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "--disable-cache"]
    command += ["-np", number, "-H", hosts, sys.executable, "-m", "nfm.lifeline", str(run)]
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment_of_workers(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    relay = threading.Thread(target=_relay, args=(process.stdout, log))
    relay.start()
    try:
        yield HorovodrunGang(process)
    finally:
        if process.poll() is None:  # what it started for the workers ends with it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        relay.join()


class HorovodrunGang:
    """Workers of a horovodrun, in a process group of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def wait(self, timeout_s: float) -> bool:
        """Wait for their end; whether they have ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self._process.returncode is not None

    def succeeded(self) -> bool:
        """Whether all ended well."""
        return self._process.returncode == 0


def _relay(stream: IO[str], log: WorkersLog) -> None:
    for line in stream:
        log.write(line)
