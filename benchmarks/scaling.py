"""More workers than this machine has cores, on paper, from what one and two of them measured.

A step of N workers takes

    T(N) = T(1) + calls * ping * log2(N) + h(N) + bytes(N) / bandwidth

where ``ping`` is a sum of one element over two workers (Horovod's negotiation and Gloo's latency;
taken to grow with log2 N), and h is what two workers take beyond that, T(2) - T(1) - calls * ping:
packing, merging and stepping the others' rows. Replicated, every worker gets all others' rows, so
h(N) = h(2) * (N - 1); sharded, a worker gets its share of everybody's, so h(N) = h(2) * 2(N - 1)/N.
The bytes that reach a worker, of n that it hands to a collective: gather n (N - 1), exchange
n (N - 1)/N, sum 2 n (N - 1)/N (a ring). Rows per worker and step stay the same.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.report import Record, Series, compare

WORKERS = (8, 16, 32, 64, 128, 256)
GIGABITS = 25


@dataclass(frozen=True)
class Measured:
    """What the model is made from.

    Attributes:
        rows: Of a worker and step.
        one_s: T(1), seconds.
        two_s: T(2).
        ping_s: A sum of one element over two workers.
        calls: Collectives of a step.
        sent: Bytes that a worker hands to them, by kind.
    """

    rows: int
    one_s: float
    two_s: float
    ping_s: float
    calls: float
    sent: Mapping[str, float]


def step_seconds(measured: Measured, placement: str, workers: int, bandwidth: float) -> float:
    """T(N), for a bandwidth in bytes per second."""
    others = workers - 1
    latency = measured.calls * measured.ping_s
    handling = max(0.0, measured.two_s - measured.one_s - latency)
    handling *= others if placement == "replicated" else 2 * others / workers
    share = {"gather": others, "exchange": others / workers, "sum": 2 * others / workers}
    received = sum(count * share[kind] for kind, count in measured.sent.items())
    return measured.one_s + latency * math.log2(workers) + handling + received / bandwidth


def records_on_paper(measured: Mapping[str, Measured], command: str) -> list[Record]:
    """Predicted rates; the ratio is the share of N times one worker's rate that is left."""
    return [
        compare(
            f"on paper.{placement}, {workers} workers",
            "rows/s",
            Series.of([workers * found.rows / seconds]),
            f"{workers} times 1 worker",
            Series.of([workers * found.rows / found.one_s]),
            command=command,
            note=f"{1000 * seconds:.0f} ms/step, {GIGABITS} Gbit/s",
        )
        for placement, found in measured.items()
        for workers in WORKERS
        for seconds in [step_seconds(found, placement, workers, GIGABITS * 1e9 / 8)]
    ]
