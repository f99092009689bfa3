"""Data to train on, and a training that nothing happens to: what the others are compared with."""

import contextlib
import fcntl
import os
import pty
import struct
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.training_under_test import Training, write_data


@dataclass(frozen=True)
class Undisturbed:
    """A training of two local workers, and what a terminal showed of it."""

    training: Training
    screen: bytes


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trainable")
    write_data(root)
    return root


@pytest.fixture(scope="session")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    training = Training(root, tmp_path_factory.mktemp("undisturbed"), stderr=inside)
    os.close(inside)
    seen = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal that nobody writes to with EIO
        while piece := os.read(terminal, 4096):
            seen += piece
    os.close(terminal)
    code, output = training.end()
    assert code == 0, output + seen.decode()
    return Undisturbed(training, seen)
