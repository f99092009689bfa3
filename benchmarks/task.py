"""What a contestant is told on its command line."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks import settings
from benchmarks.workload import SHAPES, Rows, Shape, load


@dataclass(frozen=True)
class Task:
    """What to train on.

    Attributes:
        shape: Sizes of the problem.
        data: A file of rows in memory (.npz), or a directory of Parquet files to read.
        batch: Rows of a step.
        threads: Computing threads.
        optimizer: adagrad or adam.
        variant: A way of training that only some contestants know.
    """

    shape: Shape
    data: Path
    batch: int
    threads: int
    optimizer: str
    variant: str

    def rows(self) -> Rows:
        """The rows of ``data``, a .npz file."""
        return load(self.data)


def parse() -> Task:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch", type=int, default=settings.BATCH)
    parser.add_argument("--threads", type=int, default=settings.THREADS)
    parser.add_argument("--optimizer", choices=["adagrad", "adam"], default="adagrad")
    parser.add_argument("--variant", default="")
    options = vars(parser.parse_args())
    return Task(**options | {"shape": SHAPES[options["shape"]]})
