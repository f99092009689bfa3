"""``make bench-train``: our trainer beside others, beside the machine, and beside itself.

All that is compared takes turns within one run; every figure is the median of the rounds. What is
measured, and how, is written in docs/performance.md, whose tables this command writes.

Example:
    python -m benchmarks.train --docs docs/performance.md
    python -m benchmarks.train --only step --rounds 3 --seconds 0.5
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import machine, report
from benchmarks.report import Record
from benchmarks.sections import end_to_end, growth, step, workers
from benchmarks.sections.run import COMMAND, Run

SECTIONS: dict[str, Callable[[Run], list[Record]]] = {
    "step": step.measure,
    "end_to_end": end_to_end.measure,
    "growth": growth.measure,
    "workers": workers.measure,
}


def main() -> None:
    """Measure, say what came out, and write it down."""
    arguments = parse()
    run = Run(arguments.rounds, arguments.seconds, Path("build/bench/train"))
    found = (record for name in arguments.only for record in SECTIONS[name](run))
    about = f"{machine.describe()}; {run.rounds} rounds"
    report.publish(found, out=arguments.out, docs=arguments.docs, command=COMMAND, about=about)


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="least time of a repetition")
    parser.add_argument("--out", type=Path, default=Path("build/bench/train.json"))
    parser.add_argument("--docs", type=Path, help="page to write the tables into")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
