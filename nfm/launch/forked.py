"""Start the only worker of a training from a process that has imported what it needs."""

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from conf.schema import Config
from nfm.launch.gang import WorkersLog, environment_of_workers
from nfm.lifeline import ADDRESS, RANK, WORKER_ENVIRONMENT, end_with_parent

_END_S = 30.0


@contextlib.contextmanager
def start_forked(
    config: Config, run: Path, environment: dict[str, str], log: WorkersLog
) -> Iterator["ForkedGang"]:
    """Start the worker on this machine, the first time by starting the server of this process."""
    server = _server()
    gang = ForkedGang(server)
    request = [str(run), {**environment, ADDRESS: "localhost", RANK: "0"}]
    with contextlib.suppress(BrokenPipeError):  # it will not be there to answer, either
        print(json.dumps(request), file=server.stdin, flush=True)
    try:
        yield gang
    finally:
        if not gang.wait(_END_S):
            os.killpg(server.pid, signal.SIGKILL)
        if not gang.answered:  # the next training needs another server
            _server.cache_clear()
            server.communicate()


class ForkedGang:
    """The worker that was asked of a server last."""

    def __init__(self, server: "subprocess.Popen[str]") -> None:
        self._server, self._answer, self._ended = server, "", False

    @property
    def answered(self) -> bool:
        """Whether the server has said how it ended."""
        return bool(self._answer)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; whether it has ended, or the server has."""
        assert self._server.stdout
        if not self._ended and select.select([self._server.stdout], [], [], timeout_s)[0]:
            self._answer, self._ended = self._server.stdout.readline(), True
        return self._ended

    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self._answer.strip() == "0"


@functools.cache
def _server() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "nfm.fork_server"],
        env={**WORKER_ENVIRONMENT, **os.environ, **environment_of_workers()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
