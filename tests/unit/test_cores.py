"""Workers of a host on cores of their own, asked of the system from outside."""

import os
import subprocess
import sys

import pytest

_SAY = """
import os, threading
from nfm.cores import use_cores
use_cores(None)
import numba, torch
found = []
started = threading.Thread(target=lambda: found.extend(sorted(os.sched_getaffinity(0))))
started.start()
started.join()
print(*found, torch.get_num_threads(), numba.get_num_threads())
"""


def place(rank: int, workers: int) -> list[int]:
    """What a worker says: the cores of a thread it started, torch's threads, numba's."""
    environment = {"HOROVOD_LOCAL_RANK": str(rank), "HOROVOD_LOCAL_SIZE": str(workers)}
    environment = {**os.environ, **environment}
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment.pop(name, None)
    said = subprocess.run(
        [sys.executable, "-c", _SAY], env=environment, capture_output=True, text=True, check=True
    )
    return [int(word) for word in said.stdout.split()]


def test_workers_of_a_host_share_its_cores_out() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two workers have to share the only core of this machine")
    taken = []
    for rank in range(2):
        *mine, torch_threads, numba_threads = place(rank, 2)
        assert torch_threads == numba_threads == len(mine)
        taken += mine
    assert taken == cores


def test_a_worker_by_itself_has_all_cores() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert place(0, 1) == [*cores, len(cores), len(cores)]
