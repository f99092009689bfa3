"""The Spark session of a job."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from pyspark.sql import SparkSession

from conf.schema import SparkConfig

Properties = dict[str, bool | float | int | str | None]

STOPPED = threading.Event()  # a signal has ended this process's use of Spark
_STOP_S = 30.0

# What the encoding relies on, whatever the site's defaults.
_FIXED: Properties = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "false",
    # mapInArrow: rows per Arrow batch; larger ones spill out of the cache.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "16384",
    # No limit in bytes as well: Spark would add up a batch's size anew for each of its rows, which
    # took half of the time of handing rows over. Texts of fields are short (feature_eng.raw).
    "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
    # Else pyspark looks up where each function of a column was called: 30 ms for a field.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    "spark.sql.execution.arrow.useLargeVarTypes": "false",
    # A file that cannot be read ends the run: its rows are not left out without a word.
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    # The reader that says where a row lies in a file (feature_eng.parquet_texts).
    "spark.sql.sources.useV1SourceList": "avro,csv,json,kafka,orc,parquet,text",
    # The JVM interprets what is longer, with some 22 fields on: then Spark is to make it shorter.
    "spark.sql.codegen.hugeMethodLimit": "8000",
    # Else the backslashes of a delimiter's pattern mean others (feature_eng.fields).
    "spark.sql.parser.escapedStringLiterals": "false",
}


def spark_session(config: SparkConfig) -> SparkSession:
    """The session of spark-submit with its settings, or one of our own."""
    if threading.current_thread() is not threading.main_thread():
        # That of the main thread, which alone may handle signals: none begins anew after one.
        return SparkSession.active()
    builder = SparkSession.builder.config(map=_FIXED)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # set by spark-submit
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else the first on PATH
        own: Properties = {
            "spark.ui.showConsoleProgress": "false",
            # Here each error ends the job, which says it without the stack.
            "spark.log.level": "FATAL" if config.master.startswith("local") else "ERROR",
            **config.conf,
        }
        builder = builder.master(config.master).config(map=own)
    session = builder.getOrCreate()
    # pyspark's own handler cancels jobs over a connection that is waiting for an answer, and fails.
    signal.signal(signal.SIGINT, _after_stop(session, signal.default_int_handler))
    if callable(ours := signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGTERM, _after_stop(session, ours))
    return session


def _after_stop(
    session: SparkSession, handler: Callable[[int, FrameType | None], object]
) -> Callable[[int, FrameType | None], None]:
    """A signal handler that lets no Spark task write any more before ``handler`` cleans up."""

    def stop_then_handle(signum: int, frame: FrameType | None) -> None:
        STOPPED.set()
        stopper = threading.Thread(target=session.stop)  # a thread has a connection of its own
        stopper.start()
        stopper.join(_STOP_S)
        handler(signum, frame)

    return stop_then_handle
