"""What the training needs of other workers, and the answer of a worker that is alone."""

from typing import Protocol

import torch


class Collectives(Protocol):
    """The exchange between the workers of a run.

    Every rank calls the same operations in the same order. The names tell concurrent operations
    apart on all ranks alike; unnamed ones would be numbered by a counter per rank, and hang after
    unequal counts.
    """

    rank: int
    size: int
    local_size: int

    def sum(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Elementwise sum over the workers, the same on each."""
        ...

    def gather(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """All workers' tensors, joined along dimension 0 in order of rank; lengths may differ."""
        ...


class Alone:
    """A world of one worker: nothing is exchanged."""

    rank = 0
    size = 1
    local_size = 1

    def sum(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Return the tensor itself."""
        return tensor

    def gather(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Return the tensor itself."""
        return tensor
