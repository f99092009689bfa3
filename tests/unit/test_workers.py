"""How functions run in Spark's Python workers: what a task does besides its function."""

import gc
import socket
import statistics
import threading
import time
import weakref
from collections.abc import Iterator

import pyarrow as pa
import pytest

from feature_eng.workers import Batches, in_worker

FIRST, SECOND, ROUNDS = 4176, 444, 15  # bytes of what to do, and of the rows


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


class Cycle:
    """Holds itself, so that only the garbage collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_a_task_frees_its_garbage_and_freezes_what_is_left() -> None:
    made: list[weakref.ref[Cycle]] = []

    def function(batches: Batches) -> Batches:
        made.append(weakref.ref(Cycle()))
        yield from batches

    batches = [pa.record_batch([[1, 2]], ["n"]), pa.record_batch([[3]], ["n"])]
    gc.disable()
    try:
        assert list(in_worker(function)(batches)) == batches
    finally:
        gc.enable()
    assert made[0]() is None
    assert gc.get_freeze_count() > 0


def test_the_rows_of_a_task_are_not_held_back() -> None:
    """Beside a task that does nothing about it, on a socket written to as Spark's JVM does."""

    def send(server: socket.socket) -> None:
        with server.accept()[0] as connection:
            for _ in range(2 * ROUNDS):
                connection.sendall(b"1" * FIRST)
                connection.sendall(b"2" * SECOND)
                connection.recv(1)

    def seconds(connection: socket.socket, *, ours: bool) -> float:
        def rows(batches: Batches) -> Batches:
            connection.recv(SECOND, socket.MSG_WAITALL)
            yield from batches

        took = []
        for _ in range(ROUNDS):
            connection.recv(FIRST, socket.MSG_WAITALL)
            began = time.perf_counter()
            list((in_worker(rows) if ours else rows)([]))
            took.append(time.perf_counter() - began)
            connection.sendall(b"!")
        return statistics.median(took)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=send, args=(server,)).start()
        with socket.create_connection(server.getsockname()) as connection:
            plain, ours = (seconds(connection, ours=ours) for ours in (False, True))
    assert plain > 0.02, "the kernel holds nothing back here: what is it for?"
    assert ours < plain / 2
