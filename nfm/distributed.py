"""The workers of a run, over Horovod. The one module that knows ``horovod.torch``."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError

from conf.errors import RunError
from nfm.collectives import Collectives, Later, PartsLater


class WorkersLostError(RunError):
    """Another worker is gone, or cannot be reached."""


class HorovodWorkers(Collectives):
    """Horovod's collectives; needs ``horovodrun`` (or no launcher at all, for one worker).

    Attributes:
        bytes_sent: Payload that this worker has handed to collectives so far, in bytes.
    """

    def __init__(self) -> None:
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.local_size: int = hvd.local_size()
        self.bytes_sent = 0

    def sum_later(self, tensor: torch.Tensor, name: str) -> Later:
        """Elementwise sum over the workers, the same on each."""
        self._count(tensor)
        with _lost_or_done():
            return partial(_result, hvd.allreduce_async(tensor, name=name, op=hvd.Sum))

    def gather_later(self, tensor: torch.Tensor, name: str) -> Later:
        """All workers' tensors, joined along dimension 0 in order of rank; lengths may differ."""
        self._count(tensor)
        with _lost_or_done():
            return partial(_result, hvd.allgather_async(tensor, name=name))

    def exchange_later(self, tensor: torch.Tensor, lengths: Sequence[int], name: str) -> PartsLater:
        """Send each worker its part of a tensor, and get the others' parts for this worker."""
        self._count(tensor)
        splits = torch.tensor(lengths, dtype=torch.int32)
        with _lost_or_done():
            handle = hvd.alltoall_async(tensor, splits=splits, name=name)

        def result() -> tuple[torch.Tensor, list[int]]:
            received, parts = _result(handle)
            return received, parts.tolist()

        return result

    def close(self) -> None:
        """Leave the run; the others must leave too."""
        hvd.shutdown()

    def _count(self, tensor: torch.Tensor) -> None:
        self.bytes_sent += tensor.numel() * tensor.element_size()


def _result(handle: int) -> Any:
    with _lost_or_done():
        return hvd.synchronize(handle)


@contextlib.contextmanager
def _lost_or_done() -> Iterator[None]:
    """Horovod tells of a lost worker when an operation ends, or when the next one begins."""
    try:
        yield
    except HorovodInternalError as error:
        reason = " ".join(str(error).split())
        raise WorkersLostError(f"lost contact with another worker: {reason}") from None


def can_reduce_on_gpu() -> bool:
    """Whether this build of Horovod exchanges tensors in GPU memory."""
    return bool(hvd.nccl_built())
