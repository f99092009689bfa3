"""Two real Horovod processes against one on the concatenated batches."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pyspark.sql import SparkSession

from feature_eng.build import build_features
from nfm.checkpoint import read_tensors
from nfm.collectives import Alone
from nfm.trainer import build_step
from tests.data import make_config, raw_table, write_raw
from tests.distributed.cases import CASES, run_case

WORKERS = 2


def run_workers(module: str, directory: Path) -> None:
    command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "-np", str(WORKERS)]
    done = subprocess.run(
        [*command, sys.executable, "-m", module, str(directory)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("workers")
    run_workers("tests.distributed.worker", directory)
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


def test_a_whole_training_leaves_the_same_weights_everywhere(
    spark: SparkSession, tmp_path: Path
) -> None:
    """With dropout, shuffling, uneven shares and early stopping, out of Petastorm."""
    write_raw(tmp_path / "raw", raw_table(1100))
    build_features(spark, make_config(tmp_path), overwrite=False)
    run_workers("tests.distributed.fit", tmp_path)
    first, second = (read_tensors(f"{tmp_path}/weights-{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    start = build_step(make_config(tmp_path), len(first["table.weight"]), Alone())
    assert not torch.equal(first["table.weight"], start.table.weight_VD)
