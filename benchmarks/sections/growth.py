"""What a hundred times as many features cost a step.

A batch out of a larger table has more distinct ids, and these are what a step works on. So three
pairs are measured: Zipf's law with an exponent for the large table that gives its batches as many
distinct ids as the small one's (what the bar speaks of), with the same exponent in both, and
uniform ids.
"""

from benchmarks.report import Record, Series, compare
from benchmarks.sections.run import COMMAND, Run, ours
from benchmarks.workload import (
    EXPONENT,
    SHAPES,
    UNIFORM,
    batches,
    distinct_ids,
    expected_distinct,
    load,
    matching_exponent,
)

_SMALL, _LARGE = "criteo-100k", "criteo-10m"
_BATCHES = (1024, 4096, 16384)
_BAR = 1.3


def measure(run: Run) -> list[Record]:
    """All batch sizes, one after the other."""
    return [record for batch in _BATCHES for record in _measure(run, batch)]


def exponent_for_large(batch: int) -> float:
    """The exponent with which the large table's batches have as many distinct ids."""
    distinct = expected_distinct(SHAPES[_SMALL], batch, EXPONENT)
    return matching_exponent(SHAPES[_LARGE], batch, distinct)


def _measure(run: Run, batch: int) -> list[Record]:
    matching = exponent_for_large(batch)
    pairs = {  # exponents of the small and the large table
        f"Zipf {EXPONENT} and {matching:.2f}, same U": (EXPONENT, matching),
        f"Zipf {EXPONENT} in both": (EXPONENT, EXPONENT),
        "uniform in both": (UNIFORM, UNIFORM),
    }
    runs = {(_SMALL, small) for small, _ in pairs.values()}
    runs |= {(_LARGE, large) for _, large in pairs.values()}
    data = {(shape, exponent): run.data(shape, batch, exponent) for shape, exponent in runs}
    names = {key: f"{key[0]}, {key[1]:.4f}" for key in sorted(runs)}
    entries = [ours(names[key], key[0], data[key], batch=batch) for key in names]
    standings = run.turns(f"growth-{batch}", entries)

    def milliseconds(key: tuple[str, float]) -> Series:
        return Series.of(standings.rates[names[key]]).map(lambda rate: 1000 * batch / rate)

    def distinct(key: tuple[str, float]) -> int:
        rows = load(data[key])
        return distinct_ids(SHAPES[key[0]], rows.ids_BF[batches(rows, batch)[0]])

    return [
        compare(
            f"growth.batch {batch:,}, {law}",
            "ms/step",
            milliseconds((_LARGE, large)),
            "ours at V=100,000",
            milliseconds((_SMALL, small)),
            command=COMMAND,
            at_most=_BAR if large == matching else None,
            note=f"U {distinct((_LARGE, large)):,} and {distinct((_SMALL, small)):,}",
        )
        for law, (small, large) in pairs.items()
    ]
