"""The command line that all jobs share: arguments, logging, exit codes."""

import argparse
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from types import FrameType

from conf.errors import EXIT_INTERRUPTED, PipelineError, RunError
from conf.loader import load_config
from conf.schema import Config
from feature_eng import spark_errors

_STOPPED = "what was under way was not published; what was published before is as it was"

logger = logging.getLogger("jobs")


@dataclass(frozen=True)
class Stage:
    """What a job did, for the table at the end of a pipeline.

    Attributes:
        name: The job.
        rows_in: Rows read.
        rows_out: Rows written; None where it writes none.
        processed: Rows the rate speaks of (training reads its rows once an epoch).
        seconds: Time the job took.
        output: Path of what it wrote.
        facts: Figures worth a line of their own.
    """

    name: str
    rows_in: int
    rows_out: int | None
    processed: int
    seconds: float
    output: str
    facts: dict[str, str]


def parser(doc: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the options of every job.

    Args:
        doc: The job's docstring; its first line is the description.
        examples: Lines to show in --help.
    """
    made = argparse.ArgumentParser(
        description=doc.splitlines()[0],
        epilog=f"examples:\n{examples}\nexit codes: 0 done, 1 a bug, 2 usage or config, "
        "3 the data broke a contract,\n  4 the run failed, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config", required=True, help="YAML file of the run, e.g. conf/X.yaml")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override a key, e.g. train.epochs=5; may be repeated",
    )
    made.add_argument(
        "--dry-run", action="store_true", help="check config and inputs, print the plan, stop"
    )
    made.add_argument("-v", "--verbose", action="store_true", help="debug log and stack traces")
    return made


def day(text: str) -> str:
    """A day as YYYY-MM-DD, for argparse.

    Raises:
        argparse.ArgumentTypeError: It is none, or written otherwise.
    """
    try:
        written = date.fromisoformat(text).isoformat()
    except ValueError:
        written = None
    # fromisoformat takes 20260102 and 2026-W01-5 as well; the days beside it have to be some too.
    if written != text or not "1000" <= text < "9999":
        raise argparse.ArgumentTypeError(
            f"invalid day value: '{text}'; expected YYYY-MM-DD, from 1000 to 9998"
        )
    return text


def main(
    arguments: argparse.ArgumentParser,
    run: Callable[[Config, argparse.Namespace], Stage | Sequence[Stage]],
    plan: Callable[[Config, argparse.Namespace], Sequence[str]],
) -> None:
    """Parse, load the config, plan or run, print the table, exit with the code of what happened."""
    options = arguments.parse_args()
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for noisy in ("fsspec", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # py4j logs broken connections with a stack, some on the root logger itself, where nobody else
    # does; it renews them, or raises.
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(lambda record: bool(options.verbose))
    # Logs every Spark error a second time, with the whole Java stack on one line.
    logging.getLogger("DataFrameQueryContextLogger").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with _signals_first():
            config = load_config(options.config, options.overrides)
            if options.dry_run:
                print("\n".join(plan(config, options)))
            else:
                done = run(config, options)
                show([done] if isinstance(done, Stage) else done)
    except KeyboardInterrupt as interrupt:
        print("; ".join([f"interrupted: {_STOPPED}", *interrupt.args]), file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        known = explained(error)
        if known is None or options.verbose:
            logger.exception("failed")
        if known is None:
            sys.exit(1)
        print(f"error: {known}", file=sys.stderr)
        sys.exit(known.exit_code)


@contextlib.contextmanager
def _signals_first() -> Iterator[None]:
    """What a signal raised ends the job, also where an error came of it on the way out.

    pyspark cleans up after each call, and fails where the signal has stopped Spark.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, SystemExit | KeyboardInterrupt):
            cause = cause.__context__
        if cause:
            logger.debug("failed on the way out", exc_info=error)
            raise cause from None
        raise


def explained(error: Exception) -> PipelineError | None:
    """The error as its reader needs it, or None for a bug."""
    if isinstance(error, PipelineError):
        return error
    if spark_errors.is_of_spark(error):
        return spark_errors.explained(error)
    if isinstance(error, OSError):
        return RunError(f"a file could not be read or written: {error}")
    return None


def _terminated(signum: int, frame: FrameType | None) -> None:
    print(f"terminated by SIGTERM: {_STOPPED}", file=sys.stderr)
    sys.exit(RunError.exit_code)


def figure(value: float) -> str:
    """A metric as people read it: counts whole, the rest to four places."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def show(stages: Sequence[Stage]) -> None:
    """Print what the stages did as one table, and their facts and outputs below it."""
    if not stages:
        return
    print(f"\n{'stage':<16}{'rows in':>10}{'rows out':>10}{'seconds':>9}{'rows/s':>11}")
    for stage in stages:
        out = "-" if stage.rows_out is None else f"{stage.rows_out:,}"
        rate = f"{stage.processed / stage.seconds:,.0f}"
        print(f"{stage.name:<16}{stage.rows_in:>10,}{out:>10}{stage.seconds:>9.1f}{rate:>11}")
    for stage in stages:
        print(f"\n{stage.name}: {stage.output}")
        width = max([18, *(len(name) + 2 for name in stage.facts)])
        for name, value in stage.facts.items():
            print(f"  {name:<{width}}{value}")
