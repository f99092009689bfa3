"""How fast rows come out of Parquet, beside other ways to read them; and how much memory it takes.

26 categorical and 13 numeric columns (Criteo's, see ``benchmarks.workload``) in files of 100,000
rows, as ``jobs.build_features`` writes them. Everybody ends at matrices of a batch's rows, but for
pyarrow, which ends at its own tables: the least that a reader has to do. All take turns in one
process.

Memory is that of a process that reads 20 times as many rows as it may hold to shuffle them, five
times over, and pauses now and then, so that whatever may be read ahead is.

Example:
    python -m benchmarks.stream --docs docs/performance.md
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine, report
from benchmarks.report import Record, Series, compare
from benchmarks.workload import EXPONENT, SHAPES, Shape, generate
from conf.fields import LABEL
from conf.manifest import FieldSpec
from nfm.epoch_plan import plan_epoch
from nfm.stream import stream_batches

COMMAND = "make bench-stream"
NUMERIC = 13
SHAPE = Shape("stream", SHAPES["criteo-1m"].cardinalities[NUMERIC:], 16)
CODEC = "zstd"
FILE_ROWS, FILES = 100_000, 10
BATCH, SHUFFLE_ROWS = 4096, 200_000
REPETITIONS = 5
# Several times what a step of ours uses up: a training is not to wait for its rows.
AIM = 2e6
FEW_BUFFERS, TIMES_THE_BUFFER, EPOCHS, PAUSE_S = 4, 20, 5, 0.1


def fields() -> list[FieldSpec]:
    """The columns as a manifest describes them."""
    sizes = [*SHAPE.cardinalities, *[1] * NUMERIC]
    offsets = np.cumsum([0, *sizes[:-1]]).tolist()
    kinds = [*["categorical"] * len(SHAPE.cardinalities), *["numeric"] * NUMERIC]
    return [
        FieldSpec.model_validate(
            {
                "name": f"f{number}",
                "kind": kind,
                "source": f"f{number}",
                "is_expr": False,
                "cardinality": size,
                "offset": offset,
                "length": 1,
            }
        )
        for number, (kind, size, offset) in enumerate(zip(kinds, sizes, offsets, strict=True))
    ]


def write_files(folder: Path) -> list[str]:
    """The files, written unless they are there."""
    paths = [folder / f"part-{number:05}.parquet" for number in range(FILES)]
    for seed, path in enumerate(paths):
        if path.exists():
            continue
        rows, rng = generate(SHAPE, FILE_ROWS, EXPONENT, seed), np.random.default_rng(seed)
        columns = {f"f{field}": ids for field, ids in enumerate(rows.ids_BF.T)}
        for field in range(NUMERIC):
            numbers = rng.lognormal(size=FILE_ROWS).astype(np.float32)
            columns[f"f{len(SHAPE.cardinalities) + field}"] = numbers
        folder.mkdir(parents=True, exist_ok=True)
        staged = folder / f".{path.name}"
        pq.write_table(pa.table(columns | {LABEL: rows.label_B}), staged, compression=CODEC)
        staged.rename(path)
    return [str(path) for path in paths]


def ours(paths: Sequence[str], *, group: bool) -> int:
    """One epoch of the stream, shuffled."""
    plan = plan_epoch(
        [FILE_ROWS] * len(paths),
        world_size=1,
        batch_size=BATCH,
        seed=0,
        epoch=0,
        shuffle_rows=SHUFFLE_ROWS,
    )
    batches = stream_batches(
        plan.blocks[0], paths, fields(), batch_rows=BATCH, group_for=1 if group else None
    )
    return sum(len(batch) for batch in batches)


def plain_loop(paths: Sequence[str]) -> int:
    """A loop over Petastorm's reader that fills a matrix of ids and one of numbers; no shuffle."""
    from petastorm import make_batch_reader

    names = [f"f{field}" for field in range(len(SHAPE.cardinalities) + NUMERIC)]
    ids_of, numbers_of = names[: len(SHAPE.cardinalities)], names[len(SHAPE.cardinalities) :]
    rows = 0
    urls = [f"file://{os.path.abspath(path)}" for path in paths]
    with make_batch_reader(urls, workers_count=2, shuffle_row_groups=False, num_epochs=1) as reader:
        for found in reader:
            ids = np.empty((len(found.label), len(ids_of)), np.int32)
            for slot, name in enumerate(ids_of):
                ids[:, slot] = getattr(found, name)
            numbers = np.empty((len(found.label), len(numbers_of)), np.float32)
            for slot, name in enumerate(numbers_of):
                numbers[:, slot] = getattr(found, name)
            rows += len(ids)
    return rows


def pyarrow_alone(paths: Sequence[str]) -> int:
    """Reading the files into Arrow tables."""
    return sum(len(pq.read_table(path)) for path in paths)


def batched_loader(paths: Sequence[str]) -> int:
    """Petastorm's loader for PyTorch, shuffled; of one file, for it takes its time."""
    from petastorm import make_batch_reader
    from petastorm.pytorch import BatchedDataLoader

    urls = [f"file://{os.path.abspath(path)}" for path in paths[:1]]
    reader = make_batch_reader(urls, workers_count=2, num_epochs=1)
    with BatchedDataLoader(reader, BATCH, shuffling_queue_capacity=FILE_ROWS) as loader:
        return sum(len(batch[LABEL]) for batch in loader)


def measure_rates(paths: Sequence[str]) -> dict[str, Series]:
    """Rows per second of each way; all take turns."""
    ways: dict[str, Callable[[], int]] = {
        "stream": lambda: ours(paths, group=False),
        "grouped": lambda: ours(paths, group=True),
        "plain": lambda: plain_loop(paths),
        "pyarrow": lambda: pyarrow_alone(paths),
        "loader": lambda: batched_loader(paths),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(REPETITIONS + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            rows = way()
            if repetition:  # the first one compiles and fills the page cache
                rates[name].append(rows / (time.perf_counter() - began))
    return {name: Series.of(found) for name, found in rates.items()}


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_of_epoch(paths: Sequence[str], epoch: int) -> int:
    """Peak memory while an epoch over all the paths is read, in bytes."""
    plan = plan_epoch(
        [FILE_ROWS] * len(paths),
        world_size=1,
        batch_size=BATCH,
        seed=0,
        epoch=epoch,
        shuffle_rows=SHUFFLE_ROWS,
    )
    batches = stream_batches(plan.blocks[0], paths, fields(), batch_rows=BATCH, group_for=1)
    peak = 0
    for number, _ in enumerate(batches):
        if number % (SHUFFLE_ROWS // BATCH) == 1:
            time.sleep(PAUSE_S)
        peak = max(peak, resident_bytes())
    return peak


def measure_memory(paths: Sequence[str]) -> tuple[Series, Series]:
    """Peak memory of a process in MB: of an epoch over few buffers of rows, of some over many."""
    listed = SHUFFLE_ROWS // FILE_ROWS
    many = [paths[number % len(paths)] for number in range(TIMES_THE_BUFFER * listed)]
    script = (
        "import json, sys; from benchmarks import stream; many = json.load(sys.stdin);"
        f"passes = [many[:{FEW_BUFFERS * listed}], *[many] * {EPOCHS}];"
        "peaks = [stream.peak_of_epoch(paths, epoch) for epoch, paths in enumerate(passes)];"
        "print(json.dumps(peaks))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(many),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    few, *peaks = (value / 1e6 for value in json.loads(done.stdout.splitlines()[-1]))
    return Series.of([few]), Series.of(peaks)


def records(rates: dict[str, Series], few: Series, peaks: Series) -> list[Record]:
    """What the figures say."""
    stream = rates["stream"]

    def rate(
        name: str, ours: Series, peer: str, theirs: Series, bar: float | None = None
    ) -> Record:
        return compare(name, "rows/s", ours, peer, theirs, command=COMMAND, at_least=bar)

    def memory(name: str, ours: Series, peer: str, theirs: Series) -> Record:
        note = "peak of resident memory"
        return compare(name, "MB", ours, peer, theirs, command=COMMAND, at_most=1.1, note=note)

    return [
        rate("stream.shuffled", stream, "what is asked for", Series.of([AIM]), 1.0),
        rate("stream.shuffled", stream, "pyarrow alone, into tables", rates["pyarrow"]),
        rate("stream.shuffled", stream, "a plain loop over Petastorm, unshuffled", rates["plain"]),
        rate("stream.shuffled", stream, "Petastorm's BatchedDataLoader", rates["loader"]),
        rate("stream.shuffled and grouped", rates["grouped"], "not grouped", stream),
        memory(
            "memory.epochs 2 to 5 of 20 buffers",
            Series(peaks.values[1:]),
            "epoch 1",
            Series(peaks.values[:1]),
        ),
        memory("memory.20 buffers of rows", peaks, f"{FEW_BUFFERS} buffers", few),
    ]


def measure(folder: Path) -> Iterator[Record]:
    """All of it."""
    paths = write_files(folder)
    yield from records(measure_rates(paths), *measure_memory(paths))


def main() -> None:
    """Measure, say what came out, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench/stream.json"))
    parser.add_argument("--docs", type=Path, help="page to write the tables into")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    found = measure(arguments.out.parent / "stream")
    about = f"{machine.describe()}; {REPETITIONS} rounds"
    report.publish(found, out=arguments.out, docs=arguments.docs, command=COMMAND, about=about)


if __name__ == "__main__":
    main()
