"""Two real Horovod processes against one on the concatenated batches."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nfm.checkpoint import read_tensors
from nfm.collectives import Alone
from tests.distributed.cases import CASES, run_case

WORKERS = 2


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("workers")
    command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "-np", str(WORKERS)]
    command += [sys.executable, "-m", "tests.distributed.worker", str(directory)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.mark.parametrize("name", CASES)
def test_two_workers_equal_one_on_the_concatenated_batches(
    ran: Path, tmp_path: Path, name: str
) -> None:
    expected = run_case(CASES[name], Alone(), tmp_path / "alone")
    first, *others = (read_tensors(f"{ran}/{name}-{rank}.safetensors") for rank in range(WORKERS))
    assert first.keys() == expected.keys()
    for key, tensor in first.items():
        torch.testing.assert_close(tensor, expected[key], atol=1e-6, rtol=1e-6, msg=key)
        assert all(torch.equal(tensor, other[key]) for other in others), f"{key} differs by rank"
