"""How a worker ends: what it says, and what it refuses."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from conf.errors import ConfigError, DataError, RunError
from nfm.collectives import Alone
from nfm.encoded import explain
from nfm.lifeline import ADDRESS, RANK, Lifelines, hold_worker
from nfm.worker import CONFIG, StopSignal, _own_gpu, main
from tests.data import write_config


def test_a_long_message_does_not_hold_a_worker_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the pipe before the worker has ended."""

    def fail(*_: object) -> None:
        raise DataError("é" * 1_000_000)

    write_config(tmp_path).rename(tmp_path / CONFIG)
    monkeypatch.setattr("nfm.worker._train", fail)
    reader, writer = os.pipe()
    with pytest.raises(SystemExit) as ended:
        main(str(tmp_path), writer)
    os.close(writer)
    with open(reader) as pipe:
        said = json.load(pipe)
    assert ended.value.code == DataError.exit_code
    assert (said["mendable"], set(said["message"])) == (False, {"é"})
    assert said["exit_code"] == DataError.exit_code


def test_what_a_worker_said_counts_whatever_ends_it_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Horovod does with those that are left when one has ended."""
    said = json.dumps({"message": "no room", "mendable": True, "exit_code": RunError.exit_code})

    def start(_: str, descriptor: int) -> subprocess.Popen[str]:
        script = f"import os; os.write({descriptor}, {said.encode()!r}); os.kill(os.getpid(), 15)"
        command, pipe = [sys.executable, "-c", script], subprocess.PIPE
        return subprocess.Popen(command, pass_fds=[descriptor], stdout=pipe, text=True)

    with Lifelines(print) as lifelines:
        for name, value in {**lifelines.environment, ADDRESS: "127.0.0.1", RANK: "0"}.items():
            monkeypatch.setenv(name, value)
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                hold_worker(str(tmp_path), start)
        finally:
            signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    end = lifelines.first_failure()
    assert end is not None
    assert (end.exit_code, end.message) == (RunError.exit_code, "no room")


def test_a_signal_that_comes_while_the_file_is_looked_for_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    asked = StopSignal(tmp_path)
    try:
        assert not asked()
        with monkeypatch.context() as patched:
            patched.setattr(Path, "exists", lambda _: signal.raise_signal(signal.SIGTERM))
            asked()
        assert asked()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_workers_without_a_gpu_of_their_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Alone()
    workers.local_size = 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 workers on a host of 1 GPUs"):
        _own_gpu(workers)


class _Disk:
    """A file whose bytes cannot be read."""

    closed = False

    def __init__(self, error: Exception) -> None:
        self._error, self._at = error, 0

    def size(self) -> int:
        return 1000

    def seek(self, position: int, *_: int) -> int:
        self._at = position or 1000
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, *_: int) -> bytes:
        raise self._error


def test_a_disk_that_fails_is_no_damaged_file() -> None:
    failing = pa.PythonFile(_Disk(OSError(errno.EIO, "Input/output error")), mode="r")
    found = explain(RuntimeError(), ["part"], lambda _: failing)
    assert isinstance(found, RunError)
    assert "'part' could not be read" in str(found)
    found = explain(RuntimeError(), ["part"], lambda _: pa.BufferReader(b"no Parquet"))
    assert isinstance(found, DataError)
    assert "'part' is damaged" in str(found)
