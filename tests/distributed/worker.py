"""Run by horovodrun in the tests: a few steps of each case, and what they left behind.

Usage: python -m tests.distributed.worker DIRECTORY. Leaves a checkpoint of each case, and of each
rank r its losses and traffic as ``<case>/rank-<r>.json``.
"""

import json
import sys
from pathlib import Path

from nfm.distributed import HorovodWorkers
from tests.distributed.cases import CASES, run_case


def main() -> None:
    directory = Path(sys.argv[1])
    workers = HorovodWorkers()
    for name, case in CASES.items():
        losses = run_case(case, workers, workers.size, directory / name)
        (directory / name / f"rank-{workers.rank}.json").write_text(json.dumps(losses.tolist()))
    workers.close()


if __name__ == "__main__":
    main()
