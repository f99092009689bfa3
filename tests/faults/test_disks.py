"""Disks that fill up under a training."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nfm.checkpoint import list_checkpoints
from tests.e2e.training_under_test import Training, assert_same_weights

FULL = os.strerror(errno.ENOSPC)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[None]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def fill(path: Path) -> None:
    """Write a file until nothing more goes on its disk."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_a_full_disk_under_the_checkpoints(root: Path, tmp_path: Path, placement: str) -> None:
    """Of a sharded table each worker writes a part."""
    placed = {"train.placement": placement}
    alone = Training(root, tmp_path / "alone", placed)
    code, output = alone.end()
    assert code == 0, output

    with small_disk(tmp_path / "work", "4m"):
        training = Training(root, tmp_path, {"train.max_restarts": 1, **placed})
        training.wait_for_step(0, 25)
        filler = tmp_path / "work/filler"
        fill(filler)
        code, output = training.end()
        assert code == 4, output
        error = output.rpartition("error: ")[2]
        assert "training stopped 2 times" in error, output
        assert FULL in error, output
        assert "goes on from its last checkpoint" in error, output
        assert "a bug" not in output
        training.assert_unpublished()
        filler.unlink()
        assert list_checkpoints(training.run / "checkpoints")

        resumed = Training(root, tmp_path, {"train.max_restarts": 0, **placed}, ["--resume"])
        code, output = resumed.end()
        assert code == 0, output
        assert_same_weights(resumed.weights(), alone.weights())


def test_a_full_disk_under_the_bundles(
    root: Path, tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    with small_disk(tmp_path / "models", "8k"):
        training = Training(root, tmp_path)
        code, output = training.end()
        assert code == 4, output
        assert FULL in output, output
        training.assert_unpublished()
    resumed = Training(root, tmp_path, arguments=["--resume"])
    code, output = resumed.end()
    assert code == 0, output
    assert_same_weights(resumed.weights(), undisturbed)
