"""Run by horovodrun in the tests: a few steps of each case, and what they left behind.

Usage: python -m tests.distributed.worker DIRECTORY. Rank r writes ``<case>-<r>.safetensors``.
"""

import sys
from pathlib import Path

from nfm.checkpoint import write_tensors
from nfm.distributed import HorovodWorkers
from tests.distributed.cases import CASES, run_case


def main() -> None:
    directory = Path(sys.argv[1])
    workers = HorovodWorkers()
    for name, case in CASES.items():
        tensors = run_case(case, workers, directory / "configs" / f"{name}-{workers.rank}")
        write_tensors(str(directory / f"{name}-{workers.rank}.safetensors"), tensors)
    workers.close()


if __name__ == "__main__":
    main()
