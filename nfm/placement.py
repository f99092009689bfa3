"""Where the rows of the embedding table lie: all on every worker, or each on one of them."""

import math
import os

import torch

from conf.schema import Config
from nfm.collectives import Collectives
from nfm.row_optimizers import state_per_weight

# Two more collectives a step, in bytes that the network moves meanwhile (1 ms at 1 GB/s).
_SHARDING_LATENCY_BYTES = 1 << 20
# The share of a host's memory that its workers' tables and optimiser states may take.
_MEMORY_SHARE = 0.5


def choose_placement(
    config: Config, num_features: int, workers: Collectives, device: torch.device
) -> str:
    """Replicated where it fits the memory of every worker and does not cost more traffic."""
    row_bytes = 4 * (config.model.embedding_dim + 1)
    kept = state_per_weight(config.train.optimizer)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = pages // workers.local_size
    too_large = num_features * row_bytes * (1 + kept) > memory * _MEMORY_SHARE
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
