"""What all parts of the benchmark share: how long to measure, where to write, who takes part."""

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import settings
from benchmarks.contest import Entry, Standings, take_turns
from benchmarks.report import Series
from benchmarks.workload import EXPONENT, SHAPES, cached

COMMAND = "make bench-train"
_PEERS_PYTHON = ".venv-peers/bin/python"
# Batches that lie ready in memory; a contestant goes round.
_BATCHES = 32


@dataclass(frozen=True)
class Run:
    """A run of the benchmark.

    Attributes:
        rounds: Repetitions of everybody.
        seconds: Least time of a repetition.
        folder: For data and logs.
    """

    rounds: int
    seconds: float
    folder: Path

    def data(self, shape: str, batch: int = settings.BATCH, exponent: float = EXPONENT) -> Path:
        """A file of rows to train on."""
        return cached(self.folder / "data", SHAPES[shape], _BATCHES * batch, exponent)

    def turns(self, name: str, entries: list[Entry]) -> Standings:
        """Let them take turns."""
        return take_turns(entries, self.folder / "logs" / name, self.rounds, self.seconds)


def ours(
    name: str,
    shape: str,
    data: Path,
    *,
    module: str = "ours",
    batch: int = settings.BATCH,
    variant: str = "",
) -> Entry:
    """A contestant of our environment."""
    command = (sys.executable, "-m", f"benchmarks.{module}", shape, str(data))
    options = ("--batch", str(batch), "--variant", variant)
    return Entry(name, (*command, *options), settings.THREADS)


def peer(
    name: str, module: str, shape: str, data: Path, *, optimizer: str = "adagrad", variant: str = ""
) -> Entry:
    """A contestant of the peers' environment."""
    command = (_PEERS_PYTHON, "-m", f"benchmarks.peers.{module}", shape, str(data))
    options = ("--optimizer", optimizer, "--variant", variant)
    return Entry(name, (*command, *options), settings.THREADS)


def rates(standings: Standings, name: str) -> Series | None:
    """The rates of a contestant, or None if it failed."""
    found = standings.rates.get(name)
    return Series.of(found) if found else None
