"""The plan against a reader that does what its blocks say, row by row."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nfm.epoch_plan import EpochPlan, Phase, plan_epoch

FILES = st.lists(st.integers(1, 60), min_size=1, max_size=25)
WORLDS = st.integers(1, 7)
SHUFFLES = st.sampled_from([0, 1, 50, 10_000])
SEEDS = st.integers(0, 99)
BATCHES = st.integers(7, 90)

Row = tuple[int, int]


def rows_of(plan: EpochPlan, file_rows: Sequence[int]) -> list[list[Row]]:
    """Per rank, the rows it reads in their order, each as (file, row of the file)."""
    read = []
    for blocks in plan.blocks:
        mine: list[Row] = []
        for block in blocks:
            rows = [(file, row) for file in block.files for row in range(file_rows[file])]
            assert len(rows) == block.rows
            if block.entropy is not None:
                order = np.random.default_rng(block.entropy).permutation(len(rows))
                rows = [rows[i] for i in order]
            mine += rows[block.skip :]
        read.append(mine)
    return read


def taken(plan: EpochPlan, file_rows: Sequence[int], steps: int) -> list[Row]:
    """Rows that some steps of the plan bring."""
    pairs = zip(rows_of(plan, file_rows), plan.batch_rows, strict=True)
    return [row for rows, batch in pairs for row in rows[: steps * batch]]


def all_rows(file_rows: Sequence[int]) -> list[Row]:
    return [(file, row) for file, rows in enumerate(file_rows) for row in range(rows)]


@settings(deadline=None)
@given(FILES, WORLDS, BATCHES, SEEDS, SEEDS, SHUFFLES)
def test_every_row_is_read_once_in_equal_steps(
    file_rows: list[int], world_size: int, batch_size: int, seed: int, epoch: int, shuffle: int
) -> None:
    plan = plan_epoch(
        file_rows,
        world_size=world_size,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        shuffle_rows=shuffle,
    )
    read = rows_of(plan, file_rows)
    assert sorted(itertools.chain(*read)) == all_rows(file_rows)
    assert [len(rows) for rows in read] == list(plan.rows)
    assert sum(plan.batch_rows) == batch_size
    steps = [plan.rows_of_step(step) for step in range(plan.steps)]
    assert all(sum(rows) > 0 for rows in steps)
    assert [sum(rows) for rows in zip(*steps, strict=True)] == list(plan.rows)
    assert all(
        0 <= n <= most for rows in steps for n, most in zip(rows, plan.batch_rows, strict=True)
    )
    assert max(plan.rows) - min(plan.rows) <= max(file_rows)
    for block in itertools.chain(*plan.blocks):
        assert block.rows <= max(shuffle, *(file_rows[file] for file in block.files))
        assert (block.entropy is None) == (shuffle == 0)


@settings(deadline=None)
@given(
    FILES,
    st.lists(st.tuples(WORLDS, st.floats(0, 1)), min_size=1, max_size=5),
    WORLDS,
    BATCHES,
    SEEDS,
    SHUFFLES,
)
def test_every_row_is_read_once_whatever_happened_on_the_way(
    file_rows: list[int],
    history: list[tuple[int, float]],
    last: int,
    batch_size: int,
    seed: int,
    shuffle: int,
) -> None:
    done: list[Phase] = []
    read: list[Row] = []

    def plan(world_size: int) -> EpochPlan:
        return plan_epoch(
            file_rows,
            world_size=world_size,
            batch_size=batch_size,
            seed=seed,
            epoch=1,
            shuffle_rows=shuffle,
            done=done,
        )

    for world_size, share in history:
        now = plan(world_size)
        steps = int(share * now.steps)
        read += taken(now, file_rows, steps)
        done.append(Phase(world_size, steps))
    rest = plan(last)
    read += itertools.chain(*rows_of(rest, file_rows))
    assert sorted(read) == all_rows(file_rows)
    if last != done[-1].world_size:  # dealt anew: in whole files, and whole blocks if begun
        begun = [block.rows_left for block in itertools.chain(*rest.blocks) if block.skip]
        assert max(rest.rows) - min(rest.rows) <= max([*file_rows, *begun])


@settings(deadline=None)
@given(FILES, WORLDS, BATCHES, SEEDS, SHUFFLES, st.lists(st.integers(0, 4), max_size=4))
def test_the_same_workers_go_on_as_if_they_had_not_stopped(
    file_rows: list[int],
    world_size: int,
    batch_size: int,
    seed: int,
    shuffle: int,
    stops: list[int],
) -> None:
    def plan(done: Sequence[Phase]) -> EpochPlan:
        return plan_epoch(
            file_rows,
            world_size=world_size,
            batch_size=batch_size,
            seed=seed,
            epoch=0,
            shuffle_rows=shuffle,
            done=done,
        )

    whole = plan(())
    assume(sum(stops) <= whole.steps)
    rest = plan([Phase(world_size, steps) for steps in stops])
    for before, after, batch in zip(
        rows_of(whole, file_rows), rows_of(rest, file_rows), whole.batch_rows, strict=True
    ):
        assert before[sum(stops) * batch :] == after
    assert rest.batch_rows == whole.batch_rows
    assert [rest.rows_of_step(step) for step in range(rest.steps)] == [
        whole.rows_of_step(step) for step in range(sum(stops), whole.steps)
    ]


@settings(deadline=None)
@given(FILES, WORLDS, WORLDS)
def test_a_plan_depends_on_its_arguments_alone(file_rows: list[int], before: int, now: int) -> None:
    plans = [
        plan_epoch(
            file_rows,
            world_size=now,
            batch_size=64,
            seed=5,
            epoch=2,
            shuffle_rows=100,
            done=[Phase(before, 1)],
        )
        for _ in range(2)
    ]
    assert plans[0] == plans[1]


def test_epochs_and_seeds_deal_and_shuffle_differently() -> None:
    read = [
        rows_of(
            plan_epoch(
                [10] * 20, world_size=2, batch_size=8, seed=seed, epoch=epoch, shuffle_rows=50
            ),
            [10] * 20,
        )
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for one, other in itertools.combinations(read, 2):
        files = [{file for file, _ in rows[0]} for rows in (one, other)]
        assert files[0] != files[1]
        # Nor is a file that both read first shuffled in the same way.
        assert one[0][:10] != other[0][:10]


def test_a_block_joins_files_up_to_shuffle_rows() -> None:
    plan = plan_epoch([40] * 5, world_size=1, batch_size=8, seed=0, epoch=0, shuffle_rows=100)
    assert [block.rows for block in plan.blocks[0]] == [80, 80, 40]
    plan = plan_epoch([40, 500], world_size=1, batch_size=8, seed=0, epoch=0, shuffle_rows=100)
    assert sorted(block.rows for block in plan.blocks[0]) == [40, 500]


def test_fewer_files_than_workers_leaves_some_without_rows() -> None:
    plan = plan_epoch([30, 10], world_size=3, batch_size=30, seed=0, epoch=0, shuffle_rows=0)
    assert sorted(plan.rows) == [0, 10, 30]
    assert plan.steps == 3
    assert sum(plan.rows_of_step(2)) == 10


def test_a_batch_smaller_than_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 2 gives no row to some of 3 workers"):
        plan_epoch([10], world_size=3, batch_size=2, seed=0, epoch=0, shuffle_rows=0)
