"""What a benchmark found: records as JSON, and as the tables of a page of docs/.

``python -m benchmarks.report build/bench/train.json --docs docs/performance.md`` writes the tables
of an earlier run anew.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_BEGIN = "<!-- written by `{command}`: begin -->"
_END = "<!-- written by `{command}`: end -->"


@dataclass(frozen=True)
class Series:
    """One quantity, measured several times."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Series":
        """Collect the values."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The figure that is reported."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return min(self.values), max(self.values)

    def map(self, function: Callable[[float], float]) -> "Series":
        """The same measurements in another unit."""
        return Series(tuple(function(value) for value in self.values))


@dataclass(frozen=True)
class Record:
    """One comparison.

    Attributes:
        name: Of what is compared, with dots: section first.
        unit: Of ``ours`` and ``peer_value``.
        ours: Median.
        peer: With what.
        peer_value: Median; None where there is none, see ``note``.
        ratio: ours / peer_value, of which the bar speaks.
        bar: What the ratio has to reach; None where nothing is demanded.
        sense: Whether the ratio has to be ">=" or "<=" the bar.
        holds: Whether it is; None without a bar.
        command: What measured it.
        ours_spread: Smallest and largest of our values.
        peer_spread: The same of the peer's.
        note: What else one has to know.
    """

    name: str
    unit: str
    ours: float
    peer: str
    peer_value: float | None
    ratio: float | None
    bar: float | None
    sense: str | None
    holds: bool | None
    command: str
    ours_spread: tuple[float, float]
    peer_spread: tuple[float, float] | None
    note: str


def compare(
    name: str,
    unit: str,
    ours: Series,
    peer: str,
    theirs: Series | None,
    *,
    command: str,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Record:
    """Compare medians; a bar that has nothing to compare with does not hold."""
    ratio = ours.median / theirs.median if theirs else None
    bar, sense, holds = None, None, None
    if at_least is not None:
        bar, sense, holds = at_least, ">=", ratio is not None and ratio >= at_least
    if at_most is not None:
        bar, sense, holds = at_most, "<=", ratio is not None and ratio <= at_most
    return Record(
        name=name,
        unit=unit,
        ours=ours.median,
        peer=peer,
        peer_value=theirs.median if theirs else None,
        ratio=ratio,
        bar=bar,
        sense=sense,
        holds=holds,
        command=command,
        ours_spread=ours.spread,
        peer_spread=theirs.spread if theirs else None,
        note=note,
    )


def write_json(path: Path, records: Sequence[Record]) -> None:
    """Write the records as a list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")


def line(record: Record) -> str:
    """A record as one line of a terminal."""
    peer = "-" if record.peer_value is None else f"{record.peer_value:,.4g}"
    ratio = "" if record.ratio is None else f"  ratio {record.ratio:.2f}"
    note = f"  ({record.note})" if record.note else ""
    return (
        f"{record.name}: {record.ours:,.4g} {record.unit}, {record.peer}: {peer}{ratio}"
        f"{_verdict(record)}{note}"
    )


def _verdict(record: Record) -> str:
    if record.holds is None:
        return ""
    return f"  bar {record.sense} {record.bar:g} {'holds' if record.holds else 'FAILS'}"


def tables(records: Sequence[Record]) -> str:
    """The records as one Markdown table per section, the first part of their names."""
    sections: dict[str, list[Record]] = {}
    for record in records:
        sections.setdefault(record.name.partition(".")[0], []).append(record)
    return "\n\n".join(_table(title, found) for title, found in sections.items())


def _table(title: str, records: Sequence[Record]) -> str:
    head = f"**{title}**\n\n| what | unit | ours | beside | its | ratio | bar | |\n"
    return (
        head
        + "| --- | --- | ---: | --- | ---: | ---: | --- | --- |\n"
        + "\n".join(map(_row, records))
    )


def _row(record: Record) -> str:
    def figure(value: float | None, spread: Sequence[float] | None) -> str:
        if value is None or spread is None:
            return "-"
        low, high = (_short(end) for end in spread)
        return _short(value) if low == high else f"{_short(value)} ({low} to {high})"

    bar = "" if record.bar is None else f"{record.sense} {record.bar:g}"
    if record.holds is False:
        bar = f"**{bar} fails**"
    cells = (
        record.name.partition(".")[2],
        record.unit,
        figure(record.ours, record.ours_spread),
        record.peer,
        figure(record.peer_value, record.peer_spread),
        "" if record.ratio is None else f"{record.ratio:.2f}",
        bar,
        record.note,
    )
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_docs(page: Path, command: str, text: str) -> None:
    """Replace what stands between the command's two marks on a page."""
    begin, end = _BEGIN.format(command=command), _END.format(command=command)
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} lacks the lines '{begin}' and '{end}' that the tables go between")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def publish(
    found: Iterable[Record], *, out: Path, docs: Path | None, command: str, about: str
) -> None:
    """Print records as they are measured, write them down, and say which bars fail.

    Args:
        found: The records; measured while they are asked for.
        out: JSON file, written anew after each.
        docs: Page to write the tables into.
        command: What makes them.
        about: Machine and rounds, for the page.
    """
    began, records = time.monotonic(), list[Record]()
    for record in found:
        print(line(record), flush=True)
        records.append(record)
        write_json(out, records)
    minutes = (time.monotonic() - began) / 60
    if docs:
        write_docs(docs, command, f"{about}, {minutes:.0f} minutes.\n\n{tables(records)}")
    failing = [record.name for record in records if record.holds is False]
    print(f"{minutes:.1f} minutes; {out}")
    print(f"bars that fail: {', '.join(failing)}" if failing else "all bars hold")


def main() -> None:
    """Write the tables of a file of records into a page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--docs", type=Path, required=True)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = json.loads(arguments.records.read_text())
    records = [Record(**record) for record in found]
    write_docs(arguments.docs, records[0].command, tables(records))


if __name__ == "__main__":
    main()
