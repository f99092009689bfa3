import threading
import time
import traceback
from collections.abc import Generator

import pytest

from nfm.ahead import run_ahead


class Counted:
    """Counts up to ``end``, and keeps score of what was begun and whether it was closed."""

    def __init__(self, end: int, error: Exception | None = None) -> None:
        self.end, self.error = end, error
        self.begun = 0
        self.closed_in: str | None = None

    def __iter__(self) -> Generator[int, None, None]:
        try:
            for number in range(self.end):
                self.begun += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.closed_in = threading.current_thread().name


@pytest.mark.parametrize("depth", [1, 3])
def test_items_come_in_order_from_another_thread(depth: int) -> None:
    source = Counted(50)
    assert list(run_ahead(iter(source), depth, "worker")) == list(range(50))
    assert source.closed_in == "worker"


@pytest.mark.parametrize("depth", [1, 3])
def test_it_works_as_far_ahead_as_it_may(depth: int) -> None:
    source = Counted(50)
    items = run_ahead(iter(source), depth, "worker")
    for taken in range(1, 4):
        next(items)
        time.sleep(0.1)
        assert source.begun == taken + depth
    items.close()


def test_an_error_comes_after_the_items_before_it_with_its_traceback() -> None:
    items = run_ahead(iter(Counted(2, ValueError("odd"))), 5, "worker")
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="odd") as raised:
        next(items)
    assert "raise self.error" in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_it_closes_the_items_and_ends_the_thread(taken: int) -> None:
    before = set(threading.enumerate())
    inner = Counted(1000)
    items = run_ahead(run_ahead(iter(inner), 1, "inner"), 2, "outer")
    for _ in range(taken):
        next(items)
    items.close()
    assert set(threading.enumerate()) == before
    assert inner.closed_in == ("inner" if taken else None)
    assert inner.begun < 10


def test_nothing_runs_before_the_first_item_is_asked_for() -> None:
    before = set(threading.enumerate())
    items = run_ahead(iter(Counted(3)), 1, "worker")
    assert set(threading.enumerate()) == before
    assert list(items) == [0, 1, 2]
