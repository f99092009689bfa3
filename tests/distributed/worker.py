"""Run by horovodrun in the tests: all that is asked of some number of workers, in one start.

Usage: python -m tests.distributed.worker DIRECTORY. Takes the steps of the cases, and leaves a
checkpoint of each as ``<case>/`` with the losses that each rank r saw as ``<case>/rank-<r>.json``,
and as ``<placement>/rank-<r>.json`` its traffic and what an overflow did.
Leaves the metrics of all ranks' predictions as each rank r has them, as ``metrics-<r>.json``.
Then trains in every ``fit-*`` directory that holds a ``config.yaml``, and in ``again-*``, there in
float32; and in every ``stop-*`` until rank 0 asks to stop, whose copy ``resumed-*`` goes on.
"""

import json
import shutil
import sys
from pathlib import Path

import numba
import torch

from conf.loader import load_config
from conf.manifest import read_manifest
from nfm.collectives import Collectives
from nfm.distributed import HorovodWorkers
from nfm.metrics import metrics
from nfm.objective import Objective
from nfm.step import build_step
from nfm.trainer import StoppedError, Trainer
from tests.distributed.cases import (
    CASES,
    LOCAL,
    PLACEMENTS,
    STOP_AFTER,
    cases_of,
    changed_by_an_overflow,
    run_case,
    tally_of_ranks,
    traffic,
)


def fit(
    directory: Path,
    workers: Collectives,
    stop_after: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> None:
    """A whole training out of Parquet; leaves checkpoints and ``result.json``."""
    config = load_config(f"{directory}/config.yaml")
    manifest = read_manifest(config.features.path)
    step = build_step(config, manifest.fields, workers, dtype=dtype)

    def asked() -> bool:
        return workers.rank == 0 and trainer.position.step + 1 == stop_after

    trainer = Trainer(config, manifest, workers, directory, None, step, asked)
    result = trainer.fit()
    if workers.rank == 0:
        (directory / "result.json").write_text(result.to_json())


def stop_and_go_on(directory: Path, workers: Collectives) -> None:
    resumed = directory.with_name(directory.name.replace("stop-", "resumed-"))
    try:
        fit(directory, workers, STOP_AFTER)
    except StoppedError:
        if workers.rank == 0:
            shutil.copytree(directory, resumed)
        workers.sum(torch.zeros(1), "test.copied")
        fit(resumed, workers)
    else:
        raise AssertionError("it did not stop")


def main() -> None:
    directory = Path(sys.argv[1])
    workers = HorovodWorkers()
    torch.set_num_threads(1)  # four workers share two cores
    numba.set_num_threads(1)
    for name in cases_of(workers.size):
        losses = run_case(CASES[name], workers, workers.size, directory / name)
        (directory / name / f"rank-{workers.rank}.json").write_text(json.dumps(losses.tolist()))
    run_case(LOCAL, workers, workers.size, directory / "local")
    for placement in PLACEMENTS:
        place = directory / placement
        sent = traffic(workers, placement, place / f"traffic-{workers.rank}")
        changed = changed_by_an_overflow(workers, placement, place / f"overflow-{workers.rank}")
        (place / f"rank-{workers.rank}.json").write_text(json.dumps([sent, changed]))
    tally = tally_of_ranks([workers.rank]).gathered(workers)
    found = metrics(tally, Objective("binary", "logistic"))
    (directory / f"metrics-{workers.rank}.json").write_text(json.dumps(found))
    for path in sorted(directory.glob("fit-*")):
        fit(path, workers)
    for path in sorted(directory.glob("again-*")):
        fit(path, workers, dtype=torch.float32)
    for path in sorted(directory.glob("stop-*")):
        stop_and_go_on(path, workers)
    workers.close()


if __name__ == "__main__":
    main()
