"""``make bench-score``: raw strings to written scores, beside what is glued together without us.

How fast, and how time and the workers' memory grow with the rows. What is compared stands in
docs/performance.md, whose table this command writes.

Example:
    python -m benchmarks.scores --docs docs/performance.md
"""

import argparse
import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from benchmarks import feature_data, machine, report
from benchmarks.report import Record, Series, compare
from benchmarks.score_ways import (
    DS,
    Way,
    bare_forward,
    batch_udf,
    configuration,
    make_bundle,
    mllib,
    ours,
)
from conf.loader import override_config
from conf.schema import Config, SparkConfig
from jobs.session import spark_session

COMMAND = "make bench-score"
CARDINALITIES = (10, 50, 200, 1_000, 5_000, 20_000, 100_000, 500_000, 24, 7)
ROWS, TIMES = 2_000_000, 4
# Of the rate of each.
BARS = {"bare forward": 0.5, "predict_batch_udf": 3.0, "MLlib's FM": 2.0}
GROWTH, FLAT = 4.2, 1.2
_BATCHES = (1024, 4096, 16_384)
_CONF = {
    "spark.driver.memory": "6g",
    "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
    "spark.sql.shuffle.partitions": "8",
    "spark.ui.enabled": "false",
}


def measure(folder: Path, rounds: int) -> Iterator[Record]:
    """All of it, in one session."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    spark = spark_session(SparkConfig(master=f"local[{threads}]", conf=_CONF))
    raw, columns = folder / "raw", feature_data.generated(CARDINALITIES)
    feature_data.skewed(raw / f"ds={DS}", ROWS, CARDINALITIES)
    config = configuration(folder, columns)
    make_bundle(spark, config)
    forwards = {size: bare_forward(CARDINALITIES, ROWS, size) for size in _BATCHES}
    best = min(forwards, key=lambda size: _seconds(forwards[size]))
    ways: dict[str, Way] = {
        "ours": lambda: ours(config),
        "bare forward": forwards[best],
        "predict_batch_udf": batch_udf(spark, raw, columns, folder / "udf"),
        "MLlib's FM": mllib(spark, raw, columns, folder / "mllib"),
    }
    # First, while ours alone has run: the workers keep what the peers put into them.
    growth = list(_growth(folder, config, rounds))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            # Warm each time: Spark ends Python workers that had nothing to do for a minute, and
            # MLlib takes about as long.
            way()
            seconds[name].append(_seconds(way))
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    rates = {name: Series.of(found).map(lambda s: ROWS / s) for name, found in seconds.items()}
    notes = {"bare forward": f"ids in memory, batches of {best:,}, its fastest; {threads} threads"}
    for peer, bar in BARS.items():
        yield compare(
            f"speed.raw strings to scores, {ROWS:,} rows",
            "rows/s",
            rates["ours"],
            peer,
            rates[peer],
            command=COMMAND,
            at_least=bar,
            note=notes.get(peer, ""),
        )
    yield from growth


def _growth(folder: Path, config: Config, rounds: int) -> Iterator[Record]:
    """More rows of the same kind, in the same session and so in the same workers."""
    ours(config)  # compiles, starts workers, fills the page cache
    before = Series.of(_seconds(lambda: ours(config)) for _ in range(rounds))
    memory = _worker_memory_mb()
    raw = folder / f"raw{TIMES}"
    feature_data.skewed(raw / f"ds={DS}", TIMES * ROWS, CARDINALITIES)
    larger = override_config(
        config, {"score.raw.path": str(raw), "score.path": f"{folder}/scores{TIMES}"}, COMMAND
    )
    after = Series.of(_seconds(lambda: ours(larger)) for _ in range(rounds))
    yield compare(
        f"growth.rows times {TIMES}, time",
        "s",
        after,
        f"{ROWS:,} rows",
        before,
        command=COMMAND,
        at_most=GROWTH,
    )
    yield compare(
        f"growth.rows times {TIMES}, most memory of a Python worker",
        "MB",
        Series.of([_worker_memory_mb()]),
        f"{ROWS:,} rows",
        Series.of([memory]),
        command=COMMAND,
        at_most=FLAT,
    )


def _seconds(way: Way) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def _worker_memory_mb() -> float:
    """Most resident memory that any of Spark's Python workers has ever had (VmHWM)."""
    peaks = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):  # it has just ended
            if "pyspark.daemon" in " ".join(process.cmdline()):
                status = Path(f"/proc/{process.pid}/status").read_text()
                kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status)
                peaks.append(int(kilobytes[1]) / 1024 if kilobytes else 0.0)
    return max(peaks)


def main() -> None:
    """Measure, say what came out, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/bench/score.json"))
    parser.add_argument("--docs", type=Path, help="page to write the tables into")
    arguments = parser.parse_args()
    found = measure(arguments.out.parent / "score", arguments.rounds)
    about = f"{machine.describe()}; {arguments.rounds} rounds"
    report.publish(found, out=arguments.out, docs=arguments.docs, command=COMMAND, about=about)


if __name__ == "__main__":
    main()
