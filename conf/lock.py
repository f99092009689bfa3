"""A lock that the kernel releases however its holder ends, also by kill -9."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from conf.errors import RunError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(path: str, what: str) -> Iterator[bool]:
    """Hold the lock file ``path`` (flock); it is removed at the end.

    Yields whether it is held: false on a file system without locks.

    Args:
        path: Of the lock file.
        what: What is locked, for the message.

    Raises:
        RunError: Another process, or another thread of this one, holds it.
    """
    lock = _lock(path, what)
    if lock is None:
        yield False
        return
    try:
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield True
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.close(lock)


def _lock(path: str, what: str) -> int | None:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(PermissionError):  # another user's
            os.fchmod(lock, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 1000, 0).decode(errors="replace") or "just started"
            os.close(lock)
            raise RunError(
                f"another run ({holder}) is writing '{what}': it goes first, and this one wrote "
                f"nothing; wait for its end, or stop it, and run again"
            ) from None
        except OSError as error:
            os.close(lock)
            if error.errno not in _NO_LOCKS:
                raise
            with suppress(FileNotFoundError):
                os.unlink(path)
            return None
        # Else its holder removed it after we had opened it, and another may have the next.
        if _is_still(lock, path):
            return lock
        os.close(lock)


def _is_still(lock: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False
