"""Where the rows of the embedding table lie: all on every worker, or each on one of them."""

import math
import os
from pathlib import Path

import torch

from conf.schema import Config
from nfm.collectives import Collectives
from nfm.row_optimizers import state_per_weight

# One more collective a step, in bytes that the network moves meanwhile (1 ms at 1 GB/s).
_SHARDING_LATENCY_BYTES = 1 << 20
# The share of a memory that tables, optimiser states and a checkpoint's copy of them may take.
_MEMORY_SHARE = 0.5


def choose_placement(
    config: Config, num_features: int, workers: Collectives, device: torch.device
) -> str:
    """Replicated where it fits the memory of every worker and does not cost more traffic."""
    row_bytes = 4 * (config.model.factors + 1)
    table = num_features * row_bytes * (1 + state_per_weight(config.train.optimizer))
    # Rank 0 copies it to its host's memory to write a checkpoint.
    on_host = table * (1 if device.type == "cuda" else workers.local_size + 1)
    too_large = on_host > host_memory() * _MEMORY_SHARE
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        too_large = too_large or table > memory * _MEMORY_SHARE
    anywhere = workers.sum(torch.tensor([float(too_large)]), "table.too_large")
    slots = sum(getattr(field, "max_length", 1) for field in config.fields)
    share = math.ceil(config.train.batch_size / workers.size)
    distinct = min(num_features, share * slots)
    replicated, sharded = bytes_per_step(workers.size, distinct, row_bytes)
    costly = replicated > sharded + _SHARDING_LATENCY_BYTES
    return "sharded" if workers.size > 1 and (bool(anywhere) or costly) else "replicated"


def bytes_per_step(num_workers: int, distinct: int, row_bytes: int) -> tuple[float, float]:
    """What a worker receives in a step for the table: replicated, and sharded, in bytes.

    Args:
        num_workers: N.
        distinct: Distinct ids that each worker brings.
        row_bytes: Size of a row of the table.
    """
    others = num_workers - 1
    replicated = others * distinct * (4 + row_bytes)
    sharded = others / num_workers * distinct * (4 + 2 * row_bytes)
    return replicated, sharded


def host_memory(root: Path = Path("/")) -> int:
    """Main memory that this process may use, in bytes: the host's, or what a container has of it.

    The limits are those of its control groups and of the groups around them. A container sees its
    own group as the outermost one, but may still be told where the host has it.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.exists() else []:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inner = top / group.strip("/")
        for path in (inner, *inner.parents):
            if path.is_relative_to(top) and (path / name).exists():
                limit = (path / name).read_text().strip()
                if limit != "max":
                    limits.append(int(limit))
    return min(limits)
