"""Horovod workers in the executors of the Spark application: ``train.launcher: spark``.

The one file beside nfm.distributed that imports Horovod, whose Spark part imports pyspark, as nfm
must not.
"""

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import horovod.spark
from horovod.runner import gloo_run
from py4j.protocol import Py4JError
from pyspark import SparkContext

from conf.errors import ConfigError, RunError
from conf.schema import Config
from nfm.launch.gang import StartGang, WorkersLog
from nfm.lifeline import hold_worker

_REGISTERED = "spark.scheduler.maxRegisteredResourcesWaitingTime"
_POLL_S = 0.5

logger = logging.getLogger(__name__)

# Horovod would take SIGINT and SIGTERM for itself, which only a main thread can; the launcher
# decides what they mean, and ends workers by cutting their lifelines.
gloo_run.register_shutdown_event = threading.Event


def workers_in_spark(context: SparkContext) -> StartGang:
    """What starts workers as tasks of an application: one each, all at the same time."""

    @contextlib.contextmanager
    def start(
        config: Config, run: Path, environment: dict[str, str], log: WorkersLog
    ) -> Iterator[SparkGang]:
        _refuse_relative_paths(config)
        number = _free_slots(context, config.train.num_workers)

        def work() -> None:
            horovod.spark.run(
                hold_worker,
                args=(str(run),),
                num_proc=number,
                env={"PYTHONPATH": _path_of_executors(context), **environment},
                executable=context.pythonExec,
                use_gloo=True,
                verbose=0,
            )

        gang = SparkGang(work, log)
        try:
            yield gang
        finally:
            gang.cancel(context)

    return start


class SparkGang:
    """Workers of one ``horovod.spark.run``, which a thread waits for.

    Args:
        work: Returns when all have ended well, and raises otherwise.
        log: Gets what it raises.
    """

    def __init__(self, work: Callable[[], None], log: WorkersLog) -> None:
        self._work, self._log, self._succeeded = work, log, False
        # Horovod starts threads that raise, and say so on the screen, where the log would do.
        self._hook, threading.excepthook = threading.excepthook, self._note
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for their end; whether they have ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def succeeded(self) -> bool:
        """Whether all ended well."""
        return self._succeeded

    def cancel(self, context: SparkContext) -> None:
        """End the tasks that are left."""
        if self._thread.is_alive():
            with contextlib.suppress(Py4JError, OSError):  # a stopped application has none
                context.cancelAllJobs()
            self._thread.join()
        threading.excepthook = self._hook

    def _run(self) -> None:
        self._work()
        self._succeeded = True

    def _note(self, raised: threading.ExceptHookArgs) -> None:
        lines = traceback.format_exception_only(raised.exc_type, raised.exc_value)
        self._log.write("".join(lines))


def _refuse_relative_paths(config: Config) -> None:
    for key, path in (
        ("features.path", config.features.path),
        ("train.work_path", config.train.work_path),
    ):
        if not os.path.isabs(path) and "://" not in path:
            raise ConfigError(f"{key} '{path}': executors need an absolute path that all share")


def _free_slots(context: SparkContext, wanted: int) -> int:
    """Tasks that can run at the same time, at most ``wanted``; executors get time to register."""
    scheduler = context._jsc.sc()
    profile = scheduler.resourceProfileManager().defaultResourceProfile()
    waits_s = scheduler.conf().getTimeAsSeconds(_REGISTERED, "30s")
    until = time.monotonic() + waits_s
    while (slots := int(scheduler.maxNumConcurrentTasks(profile))) < wanted:
        if time.monotonic() > until:
            break
        time.sleep(_POLL_S)
    if not slots:
        raise RunError(f"no executor came up within {waits_s} s ({_REGISTERED})")
    if slots < wanted:
        logger.warning("the executors have room for %d workers of %d: these train", slots, wanted)
    return min(slots, wanted)


def _path_of_executors(context: SparkContext) -> str:
    """Where executors find our code: as here, or in the --py-files in their working directory."""
    packages = context.getConf().get("spark.submit.pyFiles", "") or ""
    names = [os.path.basename(package) for package in packages.split(",") if package]
    return os.pathsep.join([*names, *(path or os.getcwd() for path in sys.path)])
