"""Score a range of days with a bundle, each as jobs.score does; one that fails stops no other."""

import argparse
import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import date, timedelta

from conf.errors import BY_EXIT_CODE, ConfigError, DataError, PipelineError, RunError
from conf.schema import Config
from feature_eng.lake import manifest_of
from jobs import score
from jobs.cli import Stage, day, explained, main, parser
from jobs.session import STOPPED, spark_session
from nfm.registry import LATEST, resolve_bundle

EXAMPLES = """\
  python -m jobs.backfill --config X.yaml --from 2026-01-01 --to 2026-01-31
  python -m jobs.backfill --config X.yaml --from 2026-01-01 --to 2026-01-31 --only-missing"""

_LOOK_S = 0.25

logger = logging.getLogger("jobs")


@dataclass(frozen=True)
class Day:
    """What became of a day.

    Attributes:
        ds: The day.
        rows: Rows published; None where none were.
        seconds: Time it took.
        outcome: ``published``, ``skipped``, ``failed`` and why; ``interrupted`` or ``not done``
            where a signal ended the backfill.
        exit_code: That of jobs.score.
    """

    ds: str
    rows: int | None
    seconds: float
    outcome: str
    exit_code: int = 0

    def line(self) -> str:
        """As a line of the table."""
        rows = "-" if self.rows is None else f"{self.rows:,}"
        return f"{self.ds:<12}{rows:>12}{self.seconds:>9.1f}  {self.outcome}"


def run(config: Config, options: argparse.Namespace) -> list[Stage]:
    """Score the days, and print a table of what was done, also where a signal ends it.

    Raises:
        PipelineError: Days failed; with the exit code of all of them, or 4.
    """
    days = days_of(options)
    # Also where another bundle is published meanwhile, all days are scored with one.
    options.bundle = resolve_bundle(config.train.path, options.bundle)
    spark_session(config.spark)  # here, as only the main thread may handle signals
    done: dict[str, Day] = {}
    try:
        score_days(config, options, days, done)
    finally:
        print(f"\n{'ds':<12}{'rows':>12}{'seconds':>9}  outcome")
        print("\n".join(done.get(ds, Day(ds, None, 0.0, "not done")).line() for ds in days))
    if error := failure(list(done.values())):
        raise error
    return []


def failure(done: Sequence[Day]) -> PipelineError | None:
    """The end of a backfill in which days failed: their exit code, or 4 where it is not one."""
    codes = [one.exit_code for one in done if one.exit_code]
    if not codes:
        return None
    same = len(set(codes)) == 1
    return (BY_EXIT_CODE.get(codes[0], RunError) if same else RunError)(
        f"{len(codes)} of {len(done)} days failed, as the table says; the others are done: mend "
        f"what failed, and run again with --only-missing"
    )


def score_days(
    config: Config, options: argparse.Namespace, days: Sequence[str], done: dict[str, Day]
) -> None:
    """Score days, some at a time, each in a thread, and put what became of each into ``done``."""

    def score_one(ds: str) -> None:
        done[ds] = score_day(config, options, ds)

    running: set[Future[None]] = set()
    with ThreadPoolExecutor(options.parallel) as pool:
        # The main thread hands out the days: after a signal none begins any more. It looks up now
        # and then, for a signal that another thread received does not end its waiting.
        for ds in days:
            while len(running) == options.parallel:
                _, running = wait(running, _LOOK_S, FIRST_COMPLETED)
            running.add(pool.submit(score_one, ds))
        while running:
            _, running = wait(running, _LOOK_S)


def score_day(config: Config, options: argparse.Namespace, ds: str) -> Day:
    """Score one day; an error is what became of it."""
    start = time.monotonic()
    try:
        if model := _kept_scores(config, options, ds):
            done = Day(ds, None, 0.0, f"skipped: has scores of {model}")
        else:
            stage = score.run(config, argparse.Namespace(**{**vars(options), "ds": ds}))
            done = Day(ds, stage.rows_out, stage.seconds, "published")
    except Exception as error:
        if STOPPED.is_set():  # it failed as Spark was gone, whatever it says
            return Day(ds, None, time.monotonic() - start, "interrupted", RunError.exit_code)
        known = explained(error)
        if known is None or options.verbose:
            logger.exception("%s failed", ds)
        reason = str(known) if known else f"a bug, {type(error).__name__}: {error}"
        logger.error("%s failed: %s", ds, reason)
        code = known.exit_code if known else 1
        outcome = f"failed: {reason.splitlines()[0]}"
        return Day(ds, None, time.monotonic() - start, outcome, code)
    logger.info("%s: %s", ds, done.outcome)
    return done


def _kept_scores(config: Config, options: argparse.Namespace, ds: str) -> str | None:
    """The model whose scores a day keeps; None where the day is to be scored."""
    if not options.only_missing:
        return None
    try:
        manifest = manifest_of(config.score, ds)
    except DataError as error:  # damaged: the day is scored again
        logger.warning("%s", error)
        return None
    if manifest is None:
        return None
    asked = options.bundle.rpartition("/")[2]
    if manifest.model_id != asked:
        logger.warning(
            "%s keeps scores of '%s', where '%s' was asked for; to replace them, score that day "
            "without --only-missing",
            *(ds, manifest.model_id, asked),
        )
    return manifest.model_id


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What would be done with each day."""
    options.bundle = resolve_bundle(config.train.path, options.bundle)
    lines = []
    for ds in days_of(options):
        if model := _kept_scores(config, options, ds):
            lines.append(f"skip: {ds} has scores of {model}")
        else:
            lines += score.plan(config, argparse.Namespace(**{**vars(options), "ds": ds}))
    return lines


def days_of(options: argparse.Namespace) -> list[str]:
    """All days of the range.

    Raises:
        ConfigError: It ends before it begins.
    """
    first, last = date.fromisoformat(options.first), date.fromisoformat(options.last)
    if last < first:
        raise ConfigError(f"--to {last} is before --from {first}: there is no day to score")
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def at_least_one(text: str) -> int:
    """A number of days, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    made.add_argument("--from", dest="first", type=day, required=True, help="first day, YYYY-MM-DD")
    made.add_argument("--to", dest="last", type=day, required=True, help="last day, YYYY-MM-DD")
    made.add_argument(
        "--parallel",
        type=at_least_one,
        default=1,
        help="days at a time, in one Spark session (default 1); with more the gate that compares "
        "with the day before may find none there yet",
    )
    made.add_argument(
        "--only-missing", action="store_true", help="leave days that have scores as they are"
    )
    made.add_argument("--bundle", default=LATEST, help="id, alias, path or 'latest' (default)")
    score.add_arguments(made)
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
