"""Steps of real Horovod workers: their speed, and the bytes they hand to collectives.

``horovodrun -np N python -m benchmarks.workers cases.json out.json`` runs every case in turn; rank
0 writes what came out. ``launch`` does that from Python.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ours import batches_in_memory, field_specs, run_config
from benchmarks.task import Task
from benchmarks.workload import SHAPES, Rows, batches, load
from nfm.collectives import Alone, Collectives
from nfm.cores import use_cores
from nfm.distributed import HorovodWorkers
from nfm.lifeline import WORKER_ENVIRONMENT
from nfm.step import build_step

_WARM_UP = 3
_PINGS = 50


@dataclass(frozen=True)
class Case:
    """Steps to take.

    Attributes:
        shape: Name of the sizes.
        data: File of the rows; the workers share its batches out.
        placement: replicated or sharded.
        batch: Rows of each worker in a step.
        steps: How many are timed.
        batch_norm: As in the configuration.
        apart: Whether every worker trains by itself, without Horovod.
    """

    shape: str
    data: str
    placement: str
    batch: int
    steps: int
    batch_norm: str = "synchronised"
    apart: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a case came to.

    Attributes:
        seconds: Of a step.
        bytes_sent: Payload per step that a worker hands to collectives, by their kind.
        calls: Collectives per step.
        distinct: U, distinct ids of a worker's batch, on average.
        ping_seconds: Of a sum of one element over the workers.
    """

    seconds: float
    bytes_sent: dict[str, float]
    calls: float
    distinct: float
    ping_seconds: float


class CountedWorkers(HorovodWorkers):
    """Horovod's workers, who note what is sent by which kind of collective."""

    def __init__(self) -> None:
        super().__init__()
        self.by_kind: dict[str, int] = {}
        self.calls = 0

    def sum_later(self, *arguments: Any) -> Any:
        """Noted."""
        return self._noted("sum", super().sum_later, arguments)

    def gather_later(self, *arguments: Any) -> Any:
        """Noted."""
        return self._noted("gather", super().gather_later, arguments)

    def exchange_later(self, *arguments: Any) -> Any:
        """Noted."""
        return self._noted("exchange", super().exchange_later, arguments)

    def _noted(self, kind: str, operation: Any, arguments: tuple[Any, ...]) -> Any:
        before = self.bytes_sent
        result = operation(*arguments)
        self.by_kind[kind] = self.by_kind.get(kind, 0) + self.bytes_sent - before
        self.calls += 1
        return result


def run_case(case: Case, workers: CountedWorkers) -> Outcome:
    """Take the steps of a case; all workers call it."""
    task = Task(SHAPES[case.shape], Path(case.data), case.batch, 1, "adagrad", "")
    rows = load(task.data)
    mine = np.concatenate(
        [
            np.arange(len(rows))[cut]
            for cut in batches(rows, case.batch)[workers.rank :: workers.size]
        ]
    )
    source = batches_in_memory(task, Rows(rows.ids_BF[mine], rows.label_B[mine]))
    peers: Collectives = Alone() if case.apart else workers
    config = run_config(task, case.placement, case.batch_norm)
    step, all_rows = build_step(config, field_specs(task.shape), peers), case.batch * peers.size
    for _ in range(_WARM_UP):
        step(next(source), all_rows)
    ping = _ping(workers)
    workers.by_kind, workers.calls = {}, 0
    distinct = 0
    began = time.perf_counter()
    for _ in range(case.steps):
        batch = next(source).owned_by(step.table.shards)  # to find its distinct ids once
        step(batch, all_rows)
        distinct += len(batch.groups.ids_U)
    seconds = time.perf_counter() - began
    sent = {kind: count / case.steps for kind, count in workers.by_kind.items()}
    return Outcome(
        seconds / case.steps, sent, workers.calls / case.steps, distinct / case.steps, ping
    )


def _ping(workers: HorovodWorkers) -> float:
    """Seconds of a sum of one element; also brings all workers to the same point."""
    began = time.perf_counter()
    for _ in range(_PINGS):
        workers.sum(torch.zeros(1), "ping")
    return (time.perf_counter() - began) / _PINGS


def launch(cases: Sequence[Case], num_workers: int, folder: Path) -> list[Outcome]:
    """Run the cases on so many workers of one thread each, on this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, answered = folder / "cases.json", folder / "outcomes.json"
    asked.write_text(json.dumps([asdict(case) for case in cases]))
    answered.unlink(missing_ok=True)
    command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "--disable-cache"]
    command += ["-np", str(num_workers), "-H", f"localhost:{num_workers}"]
    command += [sys.executable, "-m", "benchmarks.workers", str(asked), str(answered)]
    environment = WORKER_ENVIRONMENT | os.environ
    environment |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    with (folder / f"workers-{num_workers}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
    return [Outcome(**outcome) for outcome in json.loads(answered.read_text())]


def main() -> None:
    """Be one of the workers."""
    use_cores(1)
    asked, answered = map(Path, sys.argv[1:])
    workers = CountedWorkers()
    cases = [Case(**case) for case in json.loads(asked.read_text())]
    outcomes = [run_case(case, workers) for case in cases]
    if workers.rank == 0:
        answered.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    workers.close()


if __name__ == "__main__":
    main()
