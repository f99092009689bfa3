import math
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest
import torch

from nfm.collectives import Alone, Later, same_everywhere

TABLE = torch.arange(12.0).reshape(4, 3)
NAN = torch.full((2, 2), math.nan)
Parts = SimpleQueue[torch.Tensor]


class OneOfTwo(Alone):
    """A worker in a thread, which can gather, and no more."""

    size = local_size = 2

    def __init__(self, rank: int, sent: Parts, received: Parts) -> None:
        self.rank = self.local_rank = rank
        self.sent, self.received = sent, received

    def gather_later(self, tensor: torch.Tensor, name: str) -> Later:
        self.sent.put(tensor)
        parts = {self.rank: tensor, 1 - self.rank: self.received.get(timeout=10.0)}
        return lambda: torch.cat([parts[0], parts[1]])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ([TABLE, torch.tensor(3)], [TABLE.clone(), torch.tensor(3)], True),
        ([NAN], [NAN.clone()], True),
        ([TABLE], [TABLE.flip(0)], False),
        ([TABLE], [torch.nextafter(TABLE, TABLE + 1)], False),
        ([TABLE, torch.tensor(3)], [TABLE, torch.tensor(4)], False),
    ],
    ids=["same", "NaN in both", "the same sum", "the last bit", "a number"],
)
def test_workers_see_whether_they_hold_the_same(
    first: list[torch.Tensor], second: list[torch.Tensor], *, same: bool
) -> None:
    one: Parts = SimpleQueue()
    other: Parts = SimpleQueue()
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(
            lambda worker, tensors: same_everywhere(worker, tensors, "check"),
            (OneOfTwo(0, one, other), OneOfTwo(1, other, one)),
            (first, second),
        )
    assert list(found) == [same, same]
