"""Data to train on."""

from pathlib import Path

import pytest

from tests.e2e.training_under_test import write_data


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trainable")
    write_data(root)
    return root
