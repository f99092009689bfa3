"""Who reads which files in which order: a pure function, equal on every worker.

A file holds one row group (see ``feature_eng.write``). Every worker takes the same number of
steps; the last ones may carry fewer rows, or none, on workers whose files ran out. How many rows
each worker brings to each step is known to all of them beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EpochPlan:
    """One pass over a split.

    Attributes:
        files: Per rank, the indices of its files in reading order.
        rows: Per rank, the rows in those files.
        batch_rows: Per rank, the most rows it brings to a step.
    """

    files: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]
    batch_rows: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Steps that every worker takes."""
        return max(
            -(-rows // batch) for rows, batch in zip(self.rows, self.batch_rows, strict=True)
        )

    def rows_of_step(self, step: int) -> tuple[int, ...]:
        """Rows that each rank brings to a step; zero where its files have run out."""
        return tuple(
            min(max(rows - step * batch, 0), batch)
            for rows, batch in zip(self.rows, self.batch_rows, strict=True)
        )


def plan_epoch(
    file_rows: Sequence[int], *, world_size: int, batch_size: int, seed: int, epoch: int
) -> EpochPlan:
    """Deal the files of a split to the workers.

    The files are shuffled by (seed, epoch), then each goes to the worker with the fewest rows so
    far, so that no two workers differ by more than the rows of one file.

    Args:
        file_rows: Rows of each file, in the manifest's order.
        world_size: Number of workers.
        batch_size: Rows of a step over all workers; at least one per worker.
        seed: Of the shuffle.
        epoch: Number of the pass, from 0.

    Raises:
        ValueError: ``batch_size`` is smaller than ``world_size``.
    """
    if batch_size < world_size:
        raise ValueError(f"batch_size {batch_size} gives no row to some of {world_size} workers")
    files: list[list[int]] = [[] for _ in range(world_size)]
    rows = [0] * world_size
    for index in np.random.default_rng((seed, epoch)).permutation(len(file_rows)):
        rank = rows.index(min(rows))
        files[rank].append(int(index))
        rows[rank] += file_rows[index]
    share, rest = divmod(batch_size, world_size)
    return EpochPlan(
        files=tuple(tuple(mine) for mine in files),
        rows=tuple(rows),
        batch_rows=tuple(share + (rank < rest) for rank in range(world_size)),
    )
