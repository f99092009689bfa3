"""``make bench-features``: raw rows to encoded files, beside Spark's MLlib.

How fast, how that grows with the rows, how often the raw table is read, and how much memory the
driver takes as a column's distinct values grow. What is compared stands in docs/performance.md,
whose table this command writes.

Example:
    python -m benchmarks.features --docs docs/performance.md
    python -m benchmarks.features --only speed --rounds 1
"""

import argparse
import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import SparkSession

from benchmarks import feature_data, machine, report
from benchmarks.driver_memory import Peak, peak
from benchmarks.feature_ways import WAYS, Way, rows_read
from benchmarks.report import Record, Series, compare
from conf.schema import SparkConfig
from jobs.session import spark_session

COMMAND = "make bench-features"
ROWS = 2_000_000
BARS = {"StringIndexer": 2.0, "OneHotEncoder": 4.0}
GROWTH = 2.1
DISTINCT = (10_000, 10_000_000)
FLAT = 1.2
PEER = "StringIndexer"
_CONF = {
    "spark.driver.memory": "6g",
    "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
    "spark.sql.shuffle.partitions": "8",
    "spark.ui.enabled": "false",
    "spark.sql.maxMetadataStringLength": "1000",  # for `rows_read`
}
# By table and way.
Runs = dict[tuple[str, str], Callable[[], None]]


@dataclass(frozen=True)
class Table:
    """A raw table.

    Attributes:
        name: As records call it.
        path: A directory of Parquet files.
        columns: That are encoded.
        rows: How many it has.
    """

    name: str
    path: Path
    columns: Sequence[str]
    rows: int


def zipf(folder: Path, rows: int) -> Table:
    """Generated columns."""
    path = feature_data.skewed(folder / f"zipf{rows}", rows)
    return Table(f"Zipf, {rows:,} rows", path, feature_data.generated(), rows)


def movielens(folder: Path) -> Table:
    """Real columns."""
    path = feature_data.movielens(folder / "movielens", ROWS // feature_data.RATINGS)
    return Table(f"MovieLens, {ROWS:,} rows", path, feature_data.MOVIELENS, ROWS)


def measure_speed(folder: Path, rounds: int) -> list[Record]:
    """Speed, growth and passes, all in one session."""
    whole, half, real = zipf(folder, ROWS), zipf(folder, ROWS // 2), movielens(folder)
    master = f"local[{os.cpu_count()}]"
    spark = spark_session(SparkConfig(master=master, conf=_CONF))
    entries = {(table.name, name): (table, name) for table in (whole, real) for name in WAYS}
    entries[half.name, "ours"] = half, "ours"
    runs: Runs = {
        entry: functools.partial(_go, spark, WAYS[name], table, folder / "out" / name)
        for entry, (table, name) in entries.items()
    }
    # The first round compiles, fills the page cache and counts.
    read = {entry: rows_read(spark, entries[entry][0].path, run) for entry, run in runs.items()}
    seconds = _take_turns(runs, rounds)
    spark.stop()
    shutil.rmtree(folder / "out")
    rates = {
        (table.name, name): seconds[table.name, name].map(lambda value: ROWS / value)
        for table in (whole, real)
        for name in WAYS
    }
    passes = {entry: Series.of([read[entry] / entries[entry][0].rows]) for entry in entries}
    return [
        *(record for table in (whole, real) for record in _speeds(table.name, rates)),
        compare(
            "growth.rows times 2",
            "s",
            seconds[whole.name, "ours"],
            f"{half.rows:,} rows",
            seconds[half.name, "ours"],
            command=COMMAND,
            at_most=GROWTH,
        ),
        *(_passes(table.name, passes) for table in (whole, real)),
    ]


def _go(spark: SparkSession, way: Way, table: Table, out: Path) -> None:
    way(spark, table.path, table.columns, out)


def _take_turns(runs: Runs, rounds: int) -> dict[tuple[str, str], Series]:
    """Seconds of each."""
    seconds: dict[tuple[str, str], list[float]] = {entry: [] for entry in runs}
    for _ in range(rounds):
        for entry, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[entry].append(time.perf_counter() - began)
    return {entry: Series.of(found) for entry, found in seconds.items()}


def _speeds(table: str, rates: dict[tuple[str, str], Series]) -> list[Record]:
    return [
        compare(
            f"speed.{table}",
            "rows/s",
            rates[table, "ours"],
            f"{'StringIndexer, ' if peer == 'OneHotEncoder' else ''}{peer}",
            rates[table, peer],
            command=COMMAND,
            at_least=bar,
        )
        for peer, bar in BARS.items()
    ]


def _passes(table: str, passes: dict[tuple[str, str], Series]) -> Record:
    """One pass is the least: a value has no id before all rows have been seen."""
    return compare(
        f"passes.over the raw rows, {table}",
        "passes",
        passes[table, "ours"],
        PEER,
        passes[table, PEER],
        command=COMMAND,
        note="1 is the least there is",
    )


def measure_memory(folder: Path, _: int) -> list[Record]:
    """The driver's memory as a column's distinct values grow; the rows are as many."""
    found: dict[tuple[int, str], Peak] = {}
    for values in DISTINCT:
        raw = feature_data.distinct(folder / f"distinct{values}", max(DISTINCT), values)
        for way in ("ours", PEER):
            found[values, way] = peak(way, raw, folder / f"memory-{way}-{values}")
            print(f"{values:,} values, {way}: {found[values, way]}", flush=True)
            shutil.rmtree(folder / f"memory-{way}-{values}", ignore_errors=True)
    most, least = found[DISTINCT[-1], "ours"], found[DISTINCT[0], "ours"]
    return [
        *(_beside(values, found[values, "ours"], found[values, PEER]) for values in DISTINCT),
        _growth("resident", most.resident, least.resident, FLAT),
        _growth("heap after a collection", most.heap, least.heap, None),
    ]


def _beside(values: int, ours: Peak, theirs: Peak) -> Record:
    notes = [
        f"{name}: {f'FAILED, {took.failure}' if took.failure else f'heap {took.heap:.0f} MB'}, "
        f"{took.seconds:.0f} s"
        for name, took in (("ours", ours), (PEER, theirs))
    ]
    return compare(
        f"driver.{values:,} values, resident",
        "MB",
        Series.of([ours.resident]),
        PEER,
        None if theirs.failure else Series.of([theirs.resident]),
        command=COMMAND,
        note="; ".join(notes),
    )


def _growth(what: str, most: float, least: float, bar: float | None) -> Record:
    return compare(
        f"driver.{DISTINCT[-1]:,} values, {what}",
        "MB",
        Series.of([most]),
        f"{DISTINCT[0]:,} values",
        Series.of([least]) if math.isfinite(least) else None,
        command=COMMAND,
        at_most=bar,
    )


def main() -> None:
    """Measure, say what came out, and write it down."""
    sections = {"speed": measure_speed, "driver": measure_memory}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sections, default=list(sections))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/bench/features.json"))
    parser.add_argument("--docs", type=Path, help="page to write the tables into")
    arguments = parser.parse_args()
    folder = arguments.out.parent / "features"
    found = (
        record for name in arguments.only for record in sections[name](folder, arguments.rounds)
    )
    about = f"{machine.describe()}; {arguments.rounds} rounds"
    report.publish(found, out=arguments.out, docs=arguments.docs, command=COMMAND, about=about)


if __name__ == "__main__":
    main()
