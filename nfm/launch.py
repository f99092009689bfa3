"""Start the Horovod workers of a training, show how far they are, and see them end."""

import contextlib
import ctypes
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from conf.errors import BY_EXIT_CODE, RunError
from conf.loader import dump_config
from conf.manifest import Manifest, write_manifest
from conf.schema import Config
from nfm.run_log import PROGRESS
from nfm.trainer import Result
from nfm.worker import CONFIG, FAILURE, RESULT

LOG = "workers.log"

_POLL_S = 0.25
_TERMINATE_S = 15.0
_PR_SET_PDEATHSIG = 1
# How horovodrun reports the process that ended first.
_FIRST_TO_END = re.compile(r"Process name: (\d+)\nExit code: (\d+)")
_FROM_WORKER = re.compile(r"^\[\d+\]<std(?:out|err)>:")

logger = logging.getLogger(__name__)


def launch(config: Config, manifest: Manifest, run: Path) -> Result:
    """Train with ``config.train.num_workers`` processes on this machine.

    Args:
        config: The run.
        manifest: The data.
        run: Its directory, which must be new; gets both, the logs and the checkpoints.

    Raises:
        RunError: A worker died, or gave up as it said.
        PipelineError: A worker refused the config or the data, as it said.
    """
    run.mkdir(parents=True)
    (run / CONFIG).write_text(dump_config(config))
    write_manifest(str(run), manifest)
    number = str(config.train.num_workers)
    command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "-np", number]
    command += ["-H", f"localhost:{number}", sys.executable, "-m", "nfm.worker", str(run)]
    with (run / LOG).open("w") as log, _started(command, log) as process:
        _show_progress(process, run, config.train.epochs)
    if process.returncode != 0:
        raise _failure(run)
    return Result(**json.loads((run / RESULT).read_text()))


@contextlib.contextmanager
def _started(command: list[str], log: IO[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process group of its own, which is gone when the block ends, however it ends."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    relay = threading.Thread(target=_relay, args=(process.stdout, log))
    relay.start()
    try:
        yield process
    finally:
        if process.poll() is None:
            # horovodrun ends its workers on SIGTERM, and on its own death.
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_TERMINATE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        relay.join()


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM when this launcher dies, even by kill -9: no orphan trains on."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _relay(stream: IO[str], log: IO[str]) -> None:
    """Everything goes to the log; what the workers say goes to the screen, too."""
    for line in stream:
        log.write(line)
        log.flush()
        said, count = _FROM_WORKER.subn("", line)
        if count:
            tqdm.write(said, file=sys.stderr, end="")


def _show_progress(process: "subprocess.Popen[str]", run: Path, epochs: int) -> None:
    """Wait for the end; on a terminal, draw a bar over the steps of the current epoch."""
    bar = tqdm(unit="step", disable=not sys.stderr.isatty(), leave=False, delay=_POLL_S)
    shown = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            break
        with contextlib.suppress(FileNotFoundError):
            now = json.loads((run / PROGRESS).read_text())
            if now["epoch"] != shown:  # the rate is that of the epoch alone
                shown = now["epoch"]
                bar.reset(total=now["steps"])
                bar.set_description(f"epoch {shown + 1}/{epochs}", refresh=False)
            bar.update(now["step"] - bar.n)
    bar.close()


def _failure(run: Path) -> Exception:
    with contextlib.suppress(FileNotFoundError):
        failure = json.loads((run / FAILURE).read_text())
        return BY_EXIT_CODE.get(failure["exit_code"], RuntimeError)(failure["message"])
    first = _FIRST_TO_END.search((run / LOG).read_text())
    who = f"worker {first[1]} ended with exit code {first[2]}" if first else "horovodrun failed"
    return RunError(
        f"training stopped: {who} (137: killed, often for want of memory). Nothing was published; "
        f"see {run / LOG}, then train again"
    )
