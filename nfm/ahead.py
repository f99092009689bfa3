"""Work that goes on in a thread of its own, a bounded number of items ahead of who needs them."""

import os
import threading
from collections.abc import Generator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

# Whoever waits for the items goes first. A step shares its work out evenly over the cores: one that
# another thread takes away for a while holds up all of them.
_NICE = 19


@dataclass(frozen=True)
class _End:
    """The last word of the thread: nothing more, or what went wrong."""

    error: BaseException | None = None


def run_ahead(items: Generator[T, None, None], depth: int, name: str) -> Generator[T, None, None]:
    """Iterate over ``items`` in a thread that is up to ``depth`` items ahead.

    An item counts from when work on it begins until it is taken, so that with a depth of 1 there
    are two at any time: the one in use, and the next one. An error in the thread is raised here,
    with its traceback. Closing the result, also by an error or an early end of the loop around it,
    closes ``items`` and ends the thread, as soon as the item in work is done.

    Args:
        items: Not to be used elsewhere: it runs in the thread from now on.
        depth: Most items waiting or in work.
        name: Of the thread.

    Yields:
        The items, in their order.
    """
    ready: SimpleQueue[T | _End] = SimpleQueue()
    room = threading.Semaphore(depth)
    closed = threading.Event()

    def work() -> None:
        end = _End()
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            while not closed.is_set():
                ready.put(next(items))
                room.acquire()
        except StopIteration:
            pass
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the items
            end = _End(error)
        finally:
            items.close()
            ready.put(end)

    room.acquire()  # for the first item
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        room.release()
        thread.join()
