"""An object store that goes away under a training, and comes back."""

import os
from pathlib import Path

import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer
from safetensors.torch import load

from tests.e2e.training_under_test import Training, assert_same_weights, wait_until, workers_of


def test_a_store_out_of_reach_for_a_while(
    root: Path,
    tmp_path: Path,
    undisturbed: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features come from it, and the bundle goes there."""
    store = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    fs.mkdir("lake")
    fs.put(f"{root}/features/v1", "lake/features/v1", recursive=True)

    sets = {
        "features.path": "s3://lake/features/v1",
        "train.path": "s3://lake/models",
        "train.restart_backoff_s": 10,
    }
    training = Training(root, tmp_path, sets, environment=dict(os.environ))
    training.wait_for_step(0, 25)
    store.stop()  # its content stays with this process
    wait_until(lambda: not workers_of(tmp_path), "the end of the workers")
    store = ThreadedMotoServer(host, port=port, verbose=False)
    store.start()
    code, output = training.end()
    assert code == 0, output
    assert "attempt 1 of 4 failed: " in output, output
    assert f"{host}:{port}" in output, output
    (bundle,) = fs.glob("lake/models/*/model.safetensors")
    assert_same_weights(load(fs.cat_file(bundle)), undisturbed)
    store.stop()
