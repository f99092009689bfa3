"""Large memory for what is read in random order, on huge pages where Linux has them.

Of a table of some 100 MB nearly every row lies on another page of 4 kB, and each read of one also
walks the tables of the pages, which no cache holds either. The pages of 2 MB are so few that a step
costs the same on 10 million features as on 100,000 (docs/performance.md).
"""

import contextlib
import mmap
from collections.abc import Sequence

import torch

_HUGE_PAGE = 1 << 21


def zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of zeros in main memory.

    Taken from the system and given back to it: malloc would keep it for a later, smaller need, and
    take new memory for the next one of this size.
    """
    small = torch.zeros(0, dtype=dtype)
    count = torch.Size(shape).numel()
    if count * small.element_size() < _HUGE_PAGE:
        return small.new_zeros(shape)
    pages = mmap.mmap(-1, count * small.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel built without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype, count=count).view(*shape)
