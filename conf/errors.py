"""The errors a user can cause or must act on, each with the exit code it ends a job with.

Exit codes: 0 done, 1 a bug (any other exception), 2 usage or config, 3 the data broke a contract
or a gate, 4 the run failed, 130 interrupted (Ctrl-C).
"""

EXIT_INTERRUPTED = 130


class PipelineError(Exception):
    """An error whose message is complete: what was expected, what was found, what to do."""

    exit_code = 1


class ConfigError(PipelineError):
    """The command line or the configuration is wrong; nothing was read or written."""

    exit_code = 2


class DataError(PipelineError):
    """Data broke a contract: schema drift, a bad label, an empty input, a foreign vocabulary."""

    exit_code = 3


class RunError(PipelineError):
    """The run itself failed: a worker died, Spark failed, a store refused a write."""

    exit_code = 4


BY_EXIT_CODE = {cls.exit_code: cls for cls in (ConfigError, DataError, RunError)}
