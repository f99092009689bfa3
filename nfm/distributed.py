"""The workers of a run, over Horovod. The one module that knows ``horovod.torch``."""

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError

from conf.errors import RunError


class WorkersLostError(RunError):
    """Another worker is gone, or cannot be reached."""


class HorovodWorkers:
    """Horovod's collectives; needs ``horovodrun`` (or no launcher at all, for one worker)."""

    def __init__(self) -> None:
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_size: int = hvd.local_size()

    def sum(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Elementwise sum over the workers, the same on each."""
        try:
            summed: torch.Tensor = hvd.allreduce(tensor, name=name, op=hvd.Sum)
        except HorovodInternalError as error:
            raise _lost(error) from None
        return summed

    def gather(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """All workers' tensors, joined along dimension 0 in order of rank; lengths may differ."""
        try:
            gathered: torch.Tensor = hvd.allgather(tensor, name=name)
        except HorovodInternalError as error:
            raise _lost(error) from None
        return gathered

    def close(self) -> None:
        """Leave the run; the others must leave too."""
        hvd.shutdown()


def _lost(error: Exception) -> WorkersLostError:
    return WorkersLostError(f"lost contact with another worker: {' '.join(str(error).split())}")
