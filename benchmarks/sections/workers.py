"""Two workers beside one, what a worker sends, and more workers on paper.

Every worker has one thread. Rows per worker and step stay the same ("weak"), or those of all
workers do ("strong").
"""

import statistics
from pathlib import Path

from benchmarks import settings
from benchmarks.report import Record, Series, compare
from benchmarks.scaling import Measured, records_on_paper
from benchmarks.sections.growth import exponent_for_large
from benchmarks.sections.run import COMMAND, Run
from benchmarks.workers import Case, Outcome, launch
from benchmarks.workload import EXPONENT

_SHAPE = "criteo-1m"
_SMALL, _LARGE = "criteo-100k", "criteo-10m"
_PLACEMENTS = ("replicated", "sharded")
_BAR, _TRAFFIC_BAR = 1.8, 1.1
# Steps of a repetition per second of it, about.
_STEPS_PER_S, _TRAFFIC_STEPS = 15, 5


def measure(run: Run) -> list[Record]:
    """Speed, traffic, and the model."""
    steps = max(3, int(_STEPS_PER_S * run.seconds))
    data, half = run.data(_SHAPE), settings.BATCH // 2
    one = [
        Case(_SHAPE, str(data), "replicated", settings.BATCH, steps, alone)
        for alone in (True, False)
    ]
    weak = [Case(_SHAPE, str(data), placement, settings.BATCH, steps) for placement in _PLACEMENTS]
    strong = [Case(_SHAPE, str(data), placement, half, steps) for placement in _PLACEMENTS]
    folder: Path = run.folder / "workers"
    outcomes: dict[Case, list[Outcome]] = {case: [] for case in (*one, *weak, *strong)}
    ones: dict[bool, list[Outcome]] = {True: [], False: []}
    for _ in range(run.rounds):
        for case, outcome in zip(one, launch(one, 1, folder), strict=True):
            ones[case.alone].append(outcome)
        both = [*weak, *strong]
        for case, outcome in zip(both, launch(both, 2, folder), strict=True):
            outcomes[case].append(outcome)

    def rate(found: list[Outcome], rows: int) -> Series:
        return Series.of(rows / outcome.seconds for outcome in found)

    # The faster of the two is what two workers have to beat.
    alone = max(
        (rate(found, settings.BATCH) for found in ones.values()), key=lambda series: series.median
    )
    records = [
        compare(
            f"workers.{kind}, {case.placement}",
            "rows/s",
            rate(outcomes[case], 2 * case.batch),
            "1 worker",
            alone,
            command=COMMAND,
            at_least=_BAR if kind == "weak" else None,
            note=f"{case.batch:,} rows a worker and step, {settings.BATCH:,} of the one",
        )
        for kind, cases in (("weak", weak), ("strong", strong))
        for case in cases
    ]
    measured = {case.placement: _measured(alone, outcomes[case]) for case in weak}
    return [*records, *_traffic(run, folder), *records_on_paper(measured, COMMAND)]


def _measured(alone: Series, found: list[Outcome]) -> Measured:
    middle = sorted(found, key=lambda outcome: outcome.seconds)[len(found) // 2]
    return Measured(
        rows=settings.BATCH,
        one_s=settings.BATCH / alone.median,
        two_s=middle.seconds,
        ping_s=statistics.median(outcome.ping_seconds for outcome in found),
        calls=middle.calls,
        sent=middle.bytes_sent,
    )


def _traffic(run: Run, folder: Path) -> list[Record]:
    """Bytes of a step out of a table of V features, and out of one of 100 V with the same U."""
    exponents = {_SMALL: EXPONENT, _LARGE: exponent_for_large(settings.BATCH)}
    cases = [
        Case(
            shape,
            str(run.data(shape, exponent=exponent)),
            placement,
            settings.BATCH,
            _TRAFFIC_STEPS,
        )
        for placement in _PLACEMENTS
        for shape, exponent in exponents.items()
    ]
    found = launch(cases, 2, folder)
    return [
        compare(
            f"traffic.{placement}, V=10,000,000",
            "bytes/step/worker",
            Series.of([sum(large.bytes_sent.values())]),
            "ours at V=100,000",
            Series.of([sum(small.bytes_sent.values())]),
            command=COMMAND,
            at_most=_TRAFFIC_BAR,
            note=f"U {large.distinct:,.0f} and {small.distinct:,.0f}; 2 workers",
        )
        for placement, small, large in zip(_PLACEMENTS, found[::2], found[1::2], strict=True)
    ]
