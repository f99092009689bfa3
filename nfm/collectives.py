"""What the training needs of other workers, and the answer of a worker that is alone."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch

Later = Callable[[], torch.Tensor]
PartsLater = Callable[[], tuple[torch.Tensor, list[int]]]


class Collectives(Protocol):
    """The exchange between the workers of a run.

    Every rank calls the same operations in the same order. The names tell concurrent operations
    apart on all ranks alike; unnamed ones would be numbered by a counter per rank, and hang after
    unequal counts. Those named ``_later`` begin at once, and their result is called for later.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    def sum_later(self, tensor: torch.Tensor, name: str) -> Later:
        """Elementwise sum over the workers, the same on each."""
        ...

    def gather_later(self, tensor: torch.Tensor, name: str) -> Later:
        """All workers' tensors, joined along dimension 0 in order of rank; lengths may differ."""
        ...

    def exchange_later(self, tensor: torch.Tensor, lengths: Sequence[int], name: str) -> PartsLater:
        """Send each worker its part of a tensor, and get the others' parts for this worker.

        Args:
            tensor: Cut along dimension 0, the parts in order of rank.
            lengths: Of the parts, one per worker.
            name: Of the operation.

        Returns:
            The received parts, joined in order of rank, and their lengths.
        """
        ...

    def sum(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Elementwise sum over the workers, the same on each."""
        return self.sum_later(tensor, name)()

    def gather(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """All workers' tensors, joined along dimension 0 in order of rank; lengths may differ."""
        return self.gather_later(tensor, name)()


class Alone(Collectives):
    """A world of one worker: nothing is exchanged."""

    rank = local_rank = 0
    size = local_size = 1

    def sum_later(self, tensor: torch.Tensor, name: str) -> Later:
        """Return the tensor itself."""
        return lambda: tensor

    def gather_later(self, tensor: torch.Tensor, name: str) -> Later:
        """Return the tensor itself."""
        return lambda: tensor

    def exchange_later(self, tensor: torch.Tensor, lengths: Sequence[int], name: str) -> PartsLater:
        """Return the tensor itself."""
        return lambda: (tensor, list(lengths))


def same_everywhere(workers: Collectives, tensors: Iterable[torch.Tensor], name: str) -> bool:
    """Whether all workers hold the same tensors, to the bit; all of them call it.

    In main memory no tensor is copied, for one of them is the table.
    """
    if workers.size == 1:
        return True
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).data)
    mine = torch.tensor([list(digest.digest())], dtype=torch.uint8)
    digests = workers.gather(mine, name)
    return bool((digests == mine).all())
