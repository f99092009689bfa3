"""What Spark says of a failure: the file or column it is about, without the stack around it."""

import re
import traceback

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException, PythonException

from conf.errors import DataError, PipelineError, RunError

_UNREADABLE = "[FAILED_READ_FILE"
_OURS = f"{DataError.__module__}.{DataError.__name__}: "


def is_of_spark(error: Exception) -> bool:
    """Whether Spark raised it, or py4j on the way there: that may be an error of the socket."""
    if isinstance(error, ConnectionError):
        return any("py4j" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
    return isinstance(error, PySparkException | Py4JError)


def explained(error: Exception) -> PipelineError:
    """The error of a Spark job, one that ``is_of_spark``, as its reader needs it."""
    if isinstance(error, ConnectionError | Py4JNetworkError):
        return RunError(
            f"Spark's JVM does not answer ({error}): it has died, often for want of memory; the "
            f"log above may say why; raise spark.driver.memory, or look for who killed it"
        )
    if isinstance(error, PythonException):
        # Its last line is what our code raised; a full disk, for one.
        reason = str(error).strip().splitlines()[-1]
        if reason.startswith(_OURS):
            return DataError(f"{reason.removeprefix(_OURS)} (-v shows all)")
        return RunError(f"a Python worker of Spark failed: {reason} (-v shows all)")
    assert isinstance(error, PySparkException | Py4JError)
    reason = first_line(error)
    if isinstance(error, PySparkException) or reason.startswith(_UNREADABLE):
        return DataError(f"Spark could not process the data: {reason} (-v shows all)")
    return RunError(f"Spark failed: {reason} (-v shows all)")


def first_line(error: PySparkException | Py4JError) -> str:
    """What is wrong, in a line.

    pyspark has no class for most errors of tasks. Of those this takes Spark's own word for it,
    which names the file, and the cause: the words of both are hidden in a chain of causes.
    """
    if not isinstance(error, Py4JJavaError):
        return _first(str(error))
    chain = _chain(error)
    conditions = [line for line in chain if line.startswith("[")]
    unreadable = [line for line in conditions if line.startswith(_UNREADABLE)]
    cause = chain[-1]
    (said, *_) = [*unreadable, *conditions, cause]
    return said if cause in said else f"{said}: {cause}"


def _chain(error: Py4JJavaError) -> list[str]:
    """First lines of an error and its causes; its class's name where one says nothing."""
    lines, cause = [], error.java_exception
    while cause is not None:
        lines.append(_first(cause.getMessage() or cause.getClass().getSimpleName()))
        cause = cause.getCause()
    return lines


def _first(message: str) -> str:
    line = message.strip().split("\n")[0]
    return re.sub(r"[\s.]+SQLSTATE: \w+$", "", line)
