"""The line between the launcher of a training and each worker: when one ends, the other knows.

``python -m nfm.lifeline <run directory>`` is what launchers start on every host. It connects to the
launcher, starts ``python -m nfm.worker``, passes on what that says and reports how and why it
ended. When the launcher cuts the line or dies, even by kill -9 or with its machine, or when the
network between them is cut, the worker is killed, also one that hangs or is stopped: neither ssh
nor Spark would do that. There is one such process per worker, so this module imports next to
nothing.
"""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Any, Protocol

from conf.errors import ConfigError, RunError

# "<port>:<secret>" of the launcher, in the environment of the workers. Horovod tells them on which
# of its addresses they reach it.
LIFELINE, ADDRESS, RANK = "NFM_LIFELINE", "HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_RANK"

# What a worker has beneath what its host has set. OpenMP's threads otherwise spin a while for their
# next loop, on a core that the stream's threads could use. Horovod otherwise looks once in 1 ms
# whether there is something to send, and a step waits for several things in turn.
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "HOROVOD_CYCLE_TIME": "0.1"}
# Who does not answer for 30 s is gone: whether nothing is under way on the line, or something is,
# which Linux would send again for 15 minutes.
_LOST_S = 30.0
_KEEP_ALIVE = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 4,
    socket.TCP_USER_TIMEOUT: int(_LOST_S * 1000),
}
_LAST_WORDS_S = 5.0
_ANSWER_S = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended.

    Attributes:
        rank: Of the worker.
        host: Where it ran.
        exit_code: Of its process; 128 + the signal if one ended it.
        message: Why it failed, if somebody could say so.
        mendable: Whether another attempt may go better.
    """

    rank: int
    host: str
    exit_code: int
    message: str = ""
    mendable: bool = True


class Lifelines:
    """The launcher's ends of the lines to the workers that it starts together.

    Args:
        hear: Called with the rank and each line that a worker says, from several threads.
    """

    def __init__(self, hear: Callable[[int, str], None]) -> None:
        self._hear = hear
        self._ends: list[WorkerEnd] = []
        self._secret = secrets.token_hex(16)
        self._server = socket.create_server(("", 0))
        self._lines: list[tuple[socket.socket, threading.Thread]] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> "Lifelines":
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    @property
    def environment(self) -> dict[str, str]:
        """What the workers' ends need to find this one."""
        return {LIFELINE: f"{self._server.getsockname()[1]}:{self._secret}"}

    def first_failure(self) -> WorkerEnd | None:
        """The worker that failed first, as far as known; those that say why before the others."""
        failed = [end for end in self._ends if end.exit_code]
        return min(failed, key=lambda end: not end.message, default=None)

    def ask(self) -> None:
        """Have the workers say what they are doing, which those that hang still can."""
        for line, _ in self._lines:
            with contextlib.suppress(OSError):
                line.sendall(b"?")
        time.sleep(_ANSWER_S)

    def cut(self) -> None:
        """Kill the workers that are left, and wait until they are gone or their host is lost."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # ends accept, which close does not
        self._accepting.join()
        self._server.close()
        for line, _ in self._lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_WR)
        until = time.monotonic() + _LOST_S
        for line, listening in self._lines:
            listening.join(max(0.0, until - time.monotonic()))
            line.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            _keep_alive(line)
            listening = threading.Thread(target=self._listen, args=(line,), daemon=True)
            self._lines.append((line, listening))
            listening.start()

    def _listen(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError), line.makefile(errors="replace") as messages:
            secret, _, hello = messages.readline().partition(" ")
            if secret == self._secret:
                self._ends.append(self._hear_out(messages, *json.loads(hello)))

    def _hear_out(self, messages: IO[str], rank: int, host: str) -> WorkerEnd:
        """Pass on what a worker says until it ends."""
        killed = WorkerEnd(rank, host, 128 + signal.SIGKILL)  # with its lifeline
        try:
            for message in messages:
                content = json.loads(message)
                if not isinstance(content, str):
                    return WorkerEnd(rank, host, **content)
                self._hear(rank, content)
        except OSError as error:
            why = f"lost contact with worker {rank} on {host}: {error.strerror or error}"
            return replace(killed, exit_code=RunError.exit_code, message=why)
        except ValueError:  # half a message
            pass
        return killed


class Worker(Protocol):
    """A process that a lifeline holds, with the names of ``subprocess``."""

    stdout: IO[str] | None
    pid: int

    def wait(self) -> int:
        """Wait for its end; its exit code, or minus the signal that ended it."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


def start_worker(run: str, descriptor: int) -> Worker:
    """Start a worker that says to an open file why it failed."""
    return subprocess.Popen(
        [sys.executable, "-m", "nfm.worker", run, str(descriptor)],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=WORKER_ENVIRONMENT | os.environ,
        preexec_fn=end_with_parent,
    )


def hold_worker(run: str, start: Callable[[str, int], Worker] = start_worker) -> None:
    """Start the worker whose environment this is; end with it, and it with the launcher.

    Args:
        run: Directory of the run.
        start: Starts the worker, from the run and the open file that it says to why it failed.

    Raises:
        SystemExit: The worker failed, with its exit code.
    """
    rank, host = int(os.environ[RANK]), socket.gethostname()
    port, _, secret = os.environ[LIFELINE].partition(":")
    with socket.create_connection((os.environ[ADDRESS], int(port)), timeout=_LOST_S) as line:
        line.settimeout(None)
        _keep_alive(line)
        line.sendall(f"{secret} {json.dumps([rank, host])}\n".encode())

        def tell(content: object) -> None:
            with contextlib.suppress(OSError):  # cut: the worker is being killed
                line.sendall(f"{json.dumps(content)}\n".encode())

        if os.path.isdir(run):
            code, failure = _run_worker(run, line, tell, start)
        else:
            code = ConfigError.exit_code
            failure = {"message": _not_shared(run, rank, host), "mendable": False}
        tell({"exit_code": code, **failure})
    if code:
        sys.exit(code)


def end_with_parent() -> None:
    """Have Linux kill this process when the one that started it ends, even by kill -9.

    A SIGTERM could be handled, but comes once for each thread of the parent.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run_worker(
    run: str,
    line: socket.socket,
    tell: Callable[[object], None],
    start: Callable[[str, int], Worker],
) -> tuple[int, dict[str, Any]]:
    """See a worker through; returns its exit code, as a shell would, and what it says failed."""
    # A pipe, where a file in the run would do but for a full disk.
    failure, of_worker = os.pipe()
    worker = start(run, of_worker)
    os.close(of_worker)
    signal.signal(signal.SIGTERM, lambda *_: worker.terminate())  # it knows what to do about it

    def relay() -> None:
        for said in worker.stdout or ():
            tell(said)

    def answer_until_cut() -> None:
        with contextlib.suppress(OSError):
            while line.recv(1):
                tell(f"process {worker.pid} of the worker: {_state(worker.pid)}\n")
                worker.send_signal(signal.SIGUSR1)  # it says where each of its threads is
        worker.kill()

    threading.Thread(target=answer_until_cut, daemon=True).start()
    relaying = threading.Thread(target=relay, daemon=True)
    relaying.start()
    code = worker.wait()
    relaying.join(_LAST_WORDS_S)
    with open(failure) as said:
        return code if code >= 0 else 128 - code, json.loads(said.read() or "{}")


def _state(pid: int) -> str:
    """As Linux names it: R (running), S (sleeping), T (stopped), ..."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for row in status:
            if row.startswith("State:"):
                return row.removeprefix("State:").strip()
    return "ended"


def _not_shared(run: str, rank: int, host: str) -> str:
    return (
        f"worker {rank} does not find '{run}' on host '{host}': train.work_path must be "
        f"a directory that all hosts share"
    )


def _keep_alive(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        line.setsockopt(socket.IPPROTO_TCP, option, value)


if __name__ == "__main__":
    hold_worker(sys.argv[1])
