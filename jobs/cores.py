"""One process for each core."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import Queue

from nfm.lifeline import end_with_parent


def pool_of_cores() -> ProcessPoolExecutor:
    """Processes that have a core each, and end with this one."""
    context = multiprocessing.get_context("spawn")
    cores = os.sched_getaffinity(0)
    free: Queue[int] = context.Queue()
    for core in cores:
        free.put(core)
    return ProcessPoolExecutor(len(cores), context, _begin, (free,))


def _begin(free: "Queue[int]") -> None:
    """Give a process of the pool a core of its own."""
    end_with_parent()
    os.sched_setaffinity(0, {free.get()})
