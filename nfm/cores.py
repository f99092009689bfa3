"""Which cores of its host a worker computes on."""

import os

import numba
import torch


def use_cores(threads: int | None) -> None:
    """Keep this worker, and what it starts from now on, to its share of the host's cores.

    Workers that the system moves around get into each other's way: between two collectives there
    are a few milliseconds, and one that waits for a core holds up all the others. Call this before
    Horovod starts its threads, which stay where they are.

    Args:
        threads: Computing threads; None is one for each core of the share.
    """
    cores = sorted(os.sched_getaffinity(0))
    share = core_share(cores, *(int(os.environ.get(name, default)) for name, default in _PLACE))
    os.sched_setaffinity(0, share)
    threads = threads or len(share)
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.get_num_threads()))


# Set by Horovod's launchers; without one there is a single worker.
_PLACE = (("HOROVOD_LOCAL_RANK", "0"), ("HOROVOD_LOCAL_SIZE", "1"))


def core_share(cores: list[int], rank: int, workers: int) -> list[int]:
    """The cores of one of a host's workers: side by side, and all in use.

    Where there are more workers than cores, several have the same one.

    Example:
        >>> [core_share([0, 1, 2, 3, 4], rank, 2) for rank in range(2)]
        [[0, 1], [2, 3, 4]]
        >>> [core_share([0, 1], rank, 3) for rank in range(3)]
        [[0], [0], [1]]
    """
    first, after = rank * len(cores) // workers, (rank + 1) * len(cores) // workers
    return cores[first : max(after, first + 1)]
