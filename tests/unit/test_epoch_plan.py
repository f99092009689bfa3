import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.epoch_plan import plan_epoch

FILES = st.lists(st.integers(1, 10_000), min_size=1, max_size=60)
WORLDS = st.integers(1, 9)


@given(FILES, WORLDS, st.integers(9, 5_000), st.integers(0, 99), st.integers(0, 99))
def test_every_row_is_read_once_in_equal_steps(
    file_rows: list[int], world_size: int, batch_size: int, seed: int, epoch: int
) -> None:
    plan = plan_epoch(
        file_rows, world_size=world_size, batch_size=batch_size, seed=seed, epoch=epoch
    )
    assert sorted(index for files in plan.files for index in files) == list(range(len(file_rows)))
    assert sum(plan.batch_rows) == batch_size
    steps = [plan.rows_of_step(step) for step in range(plan.steps)]
    assert all(sum(rows) > 0 for rows in steps)
    for rank, files in enumerate(plan.files):
        assert sum(rows[rank] for rows in steps) == sum(file_rows[index] for index in files)
        assert all(0 <= rows[rank] <= plan.batch_rows[rank] for rows in steps)
    assert max(plan.rows) - min(plan.rows) <= max(file_rows)


@given(FILES, WORLDS)
def test_a_plan_depends_on_its_arguments_alone(file_rows: list[int], world_size: int) -> None:
    plans = [
        plan_epoch(file_rows, world_size=world_size, batch_size=64, seed=5, epoch=2)
        for _ in range(2)
    ]
    assert plans[0] == plans[1]


def test_epochs_and_seeds_deal_differently() -> None:
    plans = [
        plan_epoch([10] * 20, world_size=2, batch_size=8, seed=seed, epoch=epoch).files
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len(set(plans)) == 3


def test_fewer_files_than_workers_leaves_some_without_rows() -> None:
    plan = plan_epoch([30, 10], world_size=3, batch_size=30, seed=0, epoch=0)
    assert sorted(plan.rows) == [0, 10, 30]
    assert plan.steps == 3
    assert sum(plan.rows_of_step(2)) == 10


def test_a_batch_smaller_than_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 2 gives no row to some of 3 workers"):
        plan_epoch([10], world_size=3, batch_size=2, seed=0, epoch=0)
