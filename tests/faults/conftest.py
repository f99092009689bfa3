"""Data to train on, and what a training makes of it that nothing happens to."""

import os
import random
import time
from pathlib import Path

import pytest
import torch

from tests.e2e.training_under_test import Training, write_data

SEED = int(os.environ.get("FAULTS_SEED", time.time()))


def pytest_report_header() -> str:
    return f"FAULTS_SEED={SEED}: the same again strikes at the same moments"


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Picks whom to strike and when; each test by itself, whatever runs before."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trainable")
    write_data(root)
    return root


@pytest.fixture(scope="session")
def left_alone(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training of two local workers, at its end."""
    training = Training(root, tmp_path_factory.mktemp("undisturbed"))
    code, output = training.end()
    assert code == 0, output
    return training


@pytest.fixture(scope="session")
def undisturbed(left_alone: Training) -> dict[str, torch.Tensor]:
    """Its weights."""
    return left_alone.weights()
