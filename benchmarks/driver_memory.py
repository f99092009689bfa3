"""Peak memory of a Spark driver of 1 GB that encodes a column; one process per measurement.

The executor is a process of its own, as on a cluster. Two figures: the memory that the driver's two
processes ever held, Python and JVM (VmHWM), which counts garbage and what the JVM takes by itself;
and the largest heap that a collection left, which is what the driver had to keep.
"""

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.feature_ways import WAYS
from conf.schema import SparkConfig
from jobs.session import spark_session

LIMIT_S = 600
_CONF = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.executor.memory": "3g",
    "spark.sql.shuffle.partitions": "8",
    "spark.ui.enabled": "false",
}
_COLLECTED = re.compile(r"->(\d+)M\(")
_ERROR = re.compile(r"\S*(?:Exception|Error)\b.*")


@dataclass(frozen=True)
class Peak:
    """What a driver used, in MB, and how long it took; without end if it failed."""

    seconds: float
    resident: float = math.inf
    heap: float = math.inf
    failure: str = ""


def peak(way: str, raw: Path, out: Path) -> Peak:
    """Let a new process go a way."""
    command = [sys.executable, "-m", "benchmarks.driver_memory", way, str(raw), str(out)]
    log, began = out.with_suffix(".log"), time.perf_counter()
    with log.open("w") as errors, _group(command, errors.fileno()) as process:
        try:
            printed, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return Peak(LIMIT_S, failure=f"not done after {LIMIT_S} s")
    if process.returncode:
        seconds = time.perf_counter() - began
        return Peak(seconds, failure=_reason(log.read_text(), process.returncode))
    return Peak(**json.loads(printed.splitlines()[-1]))


@contextlib.contextmanager
def _group(command: list[str], errors: int) -> Iterator[subprocess.Popen[str]]:
    """A process that goes with all that it started."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(log: str, code: int) -> str:
    """What Spark says of its end, the heap's before all."""
    errors: list[str] = _ERROR.findall(log)
    memory = [error for error in errors if "OutOfMemory" in error or "maxResultSize" in error]
    return (memory or errors or [f"exit code {code}"])[0][:150].replace("|", "/")


def main() -> None:
    """Go a way in this process, and print its peaks."""
    way, raw, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    collections = out.with_suffix(".gc")
    java = {"spark.driver.extraJavaOptions": f"-Xlog:gc:file={collections}"}
    spark = spark_session(SparkConfig(master="local-cluster[1,2,3072]", conf=_CONF | java))
    jvm: Any = spark._jvm
    driver = jvm.java.lang.ProcessHandle.current().pid()
    began = time.perf_counter()
    WAYS[way](spark, raw, ["value"], out)
    seconds = time.perf_counter() - began
    jvm.java.lang.System.gc()  # at least one is logged
    heap = max(map(float, _COLLECTED.findall(collections.read_text())))
    resident = sum(_resident(process) for process in ("self", driver))
    print(json.dumps({"resident": resident, "heap": heap, "seconds": seconds}))


def _resident(process: int | str) -> float:
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    if found is None:
        raise OSError(f"/proc/{process}/status says nothing of VmHWM")
    return int(found[1]) / 1e3


if __name__ == "__main__":
    main()
