"""See a training through: start its workers, watch them, start them again when they fail."""

import itertools
import json
import logging
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from conf import storage
from conf.errors import BY_EXIT_CODE, ConfigError, DataError, RunError
from conf.loader import dump_config
from conf.manifest import Manifest, write_manifest
from conf.schema import Config
from nfm.launch.gang import Gang, StartGang, WorkersLog, start_horovodrun
from nfm.launch.progress import Progress
from nfm.launch.run_directory import how_to_go_on, locked
from nfm.lifeline import Lifelines
from nfm.run_log import PROGRESS
from nfm.trainer import Result
from nfm.validation import NotFiniteError
from nfm.worker import CONFIG, RESULT, STOP

LOG = "workers.log"

_POLL_S = 0.25
_STOP_S = 60.0
# Others may still be at work when a worker has failed; who starts them does not always end them.
_OTHERS_S = 15.0
_LOST = re.compile(r"lost contact with another worker: (.+)")
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception): [^=]+", re.MULTILINE)
_FINAL = (ConfigError.exit_code, DataError.exit_code)
_MEANING = {
    RunError.exit_code: "it lost the others",
    128 + signal.SIGKILL: "killed, often for want of memory",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        message: What failed.
        exit_code: Of the job, if this is the last attempt.
        mendable: Whether another attempt may go better.
    """

    message: str
    exit_code: int = RunError.exit_code
    mendable: bool = True


class StopRequest:
    """SIGTERM, while this is entered: a request to the workers, which they are given time for."""

    def __init__(self) -> None:
        self._at: float | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def __bool__(self) -> bool:
        """Whether it came."""
        return self._at is not None

    @property
    def seconds(self) -> float:
        """Time since it came; 0 if it did not."""
        return time.monotonic() - self._at if self._at is not None else 0.0

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._at = self._at or time.monotonic()


def launch(
    config: Config,
    manifest: Manifest,
    run: Path,
    *,
    resume: bool = False,
    start: StartGang = start_horovodrun,
    again: str | None = None,
) -> Result:
    """Train, with as many attempts as ``train.max_restarts`` allows, each from the last checkpoint.

    Args:
        config: The run.
        manifest: The data.
        run: Its directory, which gets both, the logs and the checkpoints.
        resume: Whether the directory is that of an earlier run, which goes on.
        start: Starts the workers.
        again: What to say of how to go on, if not that ``jobs.train --resume`` does.

    Raises:
        ConfigError: Another process trains in this directory.
        NotFiniteError: The training diverged.
        RunError: The attempts failed, or SIGTERM came; says how to go on.
        PipelineError: A worker refused the config or the data, as it said.
        KeyboardInterrupt: Ctrl-C; says how to go on.
    """
    run.mkdir(parents=True, exist_ok=resume)
    with locked(run), StopRequest() as stop:
        if (run / RESULT).exists():  # an earlier launcher ended between this and publishing
            return _result(run)
        storage.write_text(str(run / CONFIG), dump_config(config))
        write_manifest(str(run), manifest)
        try:
            _attempts(config, run, start, stop)
        except (RunError, RuntimeError, KeyboardInterrupt) as ended:
            said = "; ".join([*ended.args, again or how_to_go_on(run)])
            raise type(ended)(said) from None
    return _result(run)


def _result(run: Path) -> Result:
    return Result(**json.loads((run / RESULT).read_text()))


def _attempts(config: Config, run: Path, start: StartGang, stop: StopRequest) -> None:
    """Start the workers until they have trained to the end; raises what failed at last."""
    most = config.train.max_restarts + 1
    for attempt in itertools.count(1):
        failure = _attempt(config, run, start, stop, attempt)
        if failure is None:
            return
        if stop or not failure.mendable or attempt == most:
            raise _as_error(failure, attempt, run)
        pause_s = config.train.restart_backoff_s * 2.0 ** (attempt - 1)
        logger.warning(
            "attempt %d of %d failed: %s; the next one starts in %g s from the last checkpoint",
            *(attempt, most, failure.message, pause_s),
        )
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0 and not stop:
            time.sleep(min(_POLL_S, left_s))
        if stop:
            raise _as_error(Failure("SIGTERM came while no worker ran"), attempt, run)


def _as_error(failure: Failure, attempts: int, run: Path) -> Exception:
    if failure.exit_code in _FINAL:
        return BY_EXIT_CODE[failure.exit_code](failure.message)
    cls = BY_EXIT_CODE.get(failure.exit_code, RuntimeError)
    if cls is RunError and not failure.mendable:  # nothing else that happens to a run is final
        cls = NotFiniteError
    tried = f" {attempts} times, at last" if attempts > 1 else ""
    return cls(
        f"training stopped{tried}: {failure.message}. Nothing was published; see {run / LOG}"
    )


def _attempt(
    config: Config, run: Path, start: StartGang, stop: StopRequest, attempt: int
) -> Failure | None:
    """Start the workers and see them end; returns what failed."""
    for stale in (PROGRESS, STOP):
        (run / stale).unlink(missing_ok=True)
    with WorkersLog(run / LOG, attempt) as log, Lifelines(log.hear) as lifelines:
        with start(config, run, lifelines.environment, log) as gang:
            try:
                hung = _watch(gang, lifelines, config, run, stop)
            finally:
                lifelines.cut()
        if gang.succeeded():
            return None
        return _failure(lifelines, log.text(), hung)


def _watch(
    gang: Gang, lifelines: Lifelines, config: Config, run: Path, stop: StopRequest
) -> str | None:
    """Wait until a gang has ended or should be; returns what it hangs at, if it does."""
    failed_at = None
    with Progress(run, config.train.epochs) as progress:
        while not gang.wait(_POLL_S):
            if lifelines.first_failure():
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > _OTHERS_S:
                    break
            progress.look()
            if stop:
                (run / STOP).touch()
            # Who writes a checkpoint gives signs of life.
            if min(stop.seconds, progress.silent_s) > _STOP_S:
                return f"the workers did not stop within {stop.seconds:.0f} s of SIGTERM"
            if progress.silent_s > config.train.stall_timeout_s:
                lifelines.ask()
                return (
                    f"no step for {progress.silent_s:.0f} s {progress.position}; the end of the "
                    f"log says what each worker was doing"
                )
    return None


def _failure(lifelines: Lifelines, log: str, hung: str | None) -> Failure:
    """The first cause, as far as somebody could still name it."""
    if hung:
        return Failure(hung)
    if end := lifelines.first_failure():
        if end.message:
            return Failure(end.message, end.exit_code, end.mendable)
        meaning = f" ({_MEANING[end.exit_code]})" if end.exit_code in _MEANING else ""
        # Where all of them fail alike nobody is lost, and Horovod alone knows why.
        reasons = dict.fromkeys(_LOST.findall(log)) if end.exit_code == RunError.exit_code else {}
        return Failure(
            f"worker {end.rank} on {end.host} ended with exit code {end.exit_code}{meaning}"
            + "".join(f"; Horovod: {reason}" for reason in list(reasons)[:1])
        )
    *_, last_error = "Error: no reason was given", *_ERROR.findall(log)
    return Failure(f"the workers could not be started: {' '.join(last_error.split())}")
