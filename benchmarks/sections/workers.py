"""Two workers beside one, what a worker sends, and more workers on paper.

Every worker has one thread. Rows per worker and step stay the same ("weak"), or those of all
workers do ("strong"). Two that train side by side, each by itself, show what there is to have.
"""

import statistics
from dataclasses import replace

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
_BARRED = [f"{placement}, weak, {settings.BATCH:,} rows" for placement in _PLACEMENTS]
_SIZES = (settings.BATCH, 4 * settings.BATCH, 16 * settings.BATCH)
# Rows of a worker in a repetition per second of it, about.
_ROWS_PER_S, _TRAFFIC_STEPS = 60_000, 5


def measure(run: Run) -> list[Record]:
    """Speed, traffic, and the model."""
    one = {rows: _case(run, "replicated", rows, apart=True) for rows in _SIZES}
    with_horovod = {rows: _case(run, "replicated", rows) for rows in _SIZES}
    two: dict[str, tuple[Case, int]] = {}  # with the rows of the one worker beside
    for placement in _PLACEMENTS:
        for rows in _SIZES:
            case = _case(run, placement, rows)
            two[f"{placement}, weak, {rows:,} rows"] = case, rows
            local = replace(case, batch_norm="local")
            two[f"{placement}, weak, {rows:,} rows, batch norm local"] = local, rows
        half = _case(run, placement, settings.BATCH // 2)
        two[f"{placement}, strong, {half.batch:,} rows"] = half, settings.BATCH
    for rows, case in one.items():
        two[f"side by side, each by itself, {rows:,} rows"] = case, rows
    alone = _outcomes(run, [*one.values(), *with_horovod.values()], 1)
    together = _outcomes(run, [case for case, _ in two.values()], 2)

    def fastest(rows: int) -> Series:
        """The one worker that two have to beat: with Horovod or without, whichever is faster."""
        found = (_rate(alone[kind[rows]], rows) for kind in (one, with_horovod))
        return max(found, key=lambda series: series.median)

    records = [
        compare(
            f"workers.{name}",
            "rows/s",
            _rate(together[case], 2 * case.batch),
            "1 worker",
            fastest(rows),
            command=COMMAND,
            at_least=_BAR if name in _BARRED else None,
            note=f"{rows:,} rows a step of the one",
        )
        for name, (case, rows) in two.items()
    ]
    measured = {
        placement: _measured(fastest(settings.BATCH), together[_case(run, placement)])
        for placement in _PLACEMENTS
    }
    return [*records, *_traffic(run), *records_on_paper(measured, COMMAND)]


def _case(run: Run, placement: str, rows: int = settings.BATCH, *, apart: bool = False) -> Case:
    steps = max(3, int(_ROWS_PER_S * run.seconds / rows))
    data = run.data(_SHAPE, max(rows, settings.BATCH))
    return Case(_SHAPE, str(data), placement, rows, steps, apart=apart)


def _outcomes(run: Run, cases: list[Case], workers: int) -> dict[Case, list[Outcome]]:
    """Every round launches the workers anew and goes through all the cases."""
    rounds = [launch(cases, workers, run.folder / "workers") for _ in range(run.rounds)]
    return dict(zip(cases, map(list, zip(*rounds, strict=True)), strict=True))


def _rate(found: list[Outcome], rows: int) -> Series:
    return Series.of(rows / outcome.seconds for outcome in found)


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


def _traffic(run: Run) -> list[Record]:
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
    found = launch(cases, 2, run.folder / "workers")
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
