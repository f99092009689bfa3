"""Who reads which rows in which order: a pure function, equal on every worker.

A file holds one row group (see ``feature_eng.write``). A worker reads its files in blocks, shuffles
each block, and cuts the joined rows into batches. Every worker takes the same number of steps; the
last ones may carry fewer rows, or none, on workers whose files ran out. All know beforehand how
many rows each worker brings to each step, and which rows are left after any step, so that a number
of steps is all that a checkpoint has to say, also to another number of workers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Block:
    """Files whose rows are joined and shuffled together.

    Attributes:
        files: Indices into the split's files, in reading order.
        rows: Rows in those files.
        entropy: Seeds the shuffle (``numpy.random.default_rng``); None keeps the order.
        skip: Rows left out at the front, after the shuffle: they were read before.
    """

    files: tuple[int, ...]
    rows: int
    entropy: tuple[int, ...] | None
    skip: int = 0

    @property
    def rows_left(self) -> int:
        """Rows that this block still brings."""
        return self.rows - self.skip


@dataclass(frozen=True)
class Phase:
    """Steps of an epoch that were taken with one number of workers."""

    world_size: int
    steps: int


@dataclass(frozen=True)
class EpochPlan:
    """One pass over a split, or what is left of it.

    Attributes:
        blocks: Per rank, what it reads, in order.
        batch_rows: Per rank, the most rows it brings to a step.
    """

    blocks: tuple[tuple[Block, ...], ...]
    batch_rows: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """Per rank, the rows it brings."""
        return tuple(sum(block.rows_left for block in mine) for mine in self.blocks)

    @property
    def steps(self) -> int:
        """Steps that every worker takes."""
        pairs = zip(self.rows, self.batch_rows, strict=True)
        return max(-(-rows // batch) for rows, batch in pairs)

    def rows_of_step(self, step: int) -> tuple[int, ...]:
        """Rows that each rank brings to a step; zero where its files have run out."""
        return tuple(
            min(max(rows - step * batch, 0), batch)
            for rows, batch in zip(self.rows, self.batch_rows, strict=True)
        )

    def after(self, steps: int) -> "EpochPlan":
        """What is left of this plan after some of its steps, for the same workers."""
        pairs = zip(self.blocks, self.batch_rows, strict=True)
        left = (_without(blocks, steps * batch) for blocks, batch in pairs)
        return EpochPlan(tuple(left), self.batch_rows)


def plan_epoch(
    file_rows: Sequence[int],
    *,
    world_size: int,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle_rows: int,
    done: Sequence[Phase] = (),
) -> EpochPlan:
    """Deal the files of a split to the workers.

    The files are shuffled by (seed, epoch), then each goes to the worker with the fewest rows so
    far, so that no two workers differ by more than the rows of one file. Of an epoch that was
    begun, only the rows that no worker has brought yet are dealt: to the same number of workers as
    they had them; to another number anew, where a block that was begun stays whole.

    Args:
        file_rows: Rows of each file, in the manifest's order.
        world_size: Number of workers.
        batch_size: Rows of a step over all workers; at least one per worker.
        seed: Of the order of the files, and of the rows in a block.
        epoch: Number of the pass, from 0.
        shuffle_rows: Most rows of a block, unless one file has more; 0 keeps their order.
        done: What was read of this epoch before, in order.

    Raises:
        ValueError: ``batch_size`` is smaller than ``world_size``.
    """
    if batch_size < world_size:
        raise ValueError(f"batch_size {batch_size} gives no row to some of {world_size} workers")

    def deal(begun: Iterable[Block], files: Iterable[int], size: int) -> EpochPlan:
        shares: list[tuple[list[Block], list[int]]] = [([], []) for _ in range(size)]
        rows = [0] * size
        for block in sorted(begun, key=lambda block: -block.rows_left):
            rank = rows.index(min(rows))
            shares[rank][0].append(block)
            rows[rank] += block.rows_left
        for file in files:
            rank = rows.index(min(rows))
            shares[rank][1].append(file)
            rows[rank] += file_rows[file]
        share, rest = divmod(batch_size, size)
        return EpochPlan(
            tuple(
                (*begun, *_joined(mine, file_rows, shuffle_rows, (seed, epoch)))
                for begun, mine in shares
            ),
            tuple(share + (rank < rest) for rank in range(size)),
        )

    order = [int(i) for i in np.random.default_rng((seed, epoch)).permutation(len(file_rows))]
    plan = deal([], order, done[0].world_size if done else world_size)
    for number, phase in enumerate(done):
        plan = plan.after(phase.steps)
        size = done[number + 1].world_size if number + 1 < len(done) else world_size
        if size != phase.world_size:
            left = [block for blocks in plan.blocks for block in blocks]
            unread = {file for block in left if not block.skip for file in block.files}
            begun = [block for block in left if block.skip]
            plan = deal(begun, [file for file in order if file in unread], size)
    return plan


def _joined(
    files: Sequence[int], file_rows: Sequence[int], shuffle_rows: int, entropy: tuple[int, ...]
) -> list[Block]:
    """Consecutive files as blocks; the first file of a block tells its shuffle from others."""
    groups: list[list[int]] = []
    total = 0
    for file in files:
        if not groups or total + file_rows[file] > shuffle_rows:
            groups.append([])
            total = 0
        groups[-1].append(file)
        total += file_rows[file]
    return [
        Block(
            tuple(group),
            sum(file_rows[file] for file in group),
            (*entropy, group[0]) if shuffle_rows else None,
        )
        for group in groups
    ]


def _without(blocks: tuple[Block, ...], rows: int) -> tuple[Block, ...]:
    """The blocks without their first rows."""
    left = []
    for block in blocks:
        read = min(rows, block.rows_left)
        rows -= read
        if read < block.rows_left:
            left.append(replace(block, skip=block.skip + read))
    return tuple(left)
