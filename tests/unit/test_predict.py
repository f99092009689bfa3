"""Scores of encoded rows: the same to the last bit in any company, and shared weights."""

import os
from pathlib import Path

import fsspec
import numba
import numpy as np
import pytest
import torch

from conf.errors import ConfigError
from nfm.batch import Columns, assemble
from nfm.bundle import Bundle, load_bundle
from nfm.calibration import ScoreReference
from nfm.explain import explain
from nfm.objective import probability
from nfm.predict import BATCH_ROWS, Scorer, check_scorable, load_scorer, predict_logits
from tests.bundles import FIELDS, SCORES, bundle_of, columns, write

ROWS = 2 * BATCH_ROWS + 77


def matrices(encoded: Columns) -> tuple[torch.Tensor, torch.Tensor]:
    ids, x = assemble(encoded, FIELDS)
    return torch.from_numpy(ids), torch.from_numpy(x)


def plain_outputs(bundle: Bundle, encoded: Columns) -> np.ndarray:
    """Plain torch, with autograd on its way."""
    ids, x = matrices(encoded)
    read = bundle.model.reads.read(bundle.table_VD, ids, x, bundle.field_of_slots)
    return bundle.model(*read).detach().numpy()


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.name=lr",),
        ("model.name=fm",),
        ("model.name=nfm", "model.embedding_dim=64", "model.hidden=[64]"),
        ("model.name=nfm", "model.embedding_dim=10", "model.hidden=[7, 33, 3]"),
        ("model.name=nfm", "model.batch_norm=none", "model.activation=sigmoid"),
        ("model.name=fnn", "model.hidden=[30, 8]"),
        ("model.name=wide_deep", "model.hidden=[5]"),
        ("model.name=deep_cross", "model.hidden=[20, 9]"),
    ],
)
def test_an_output_depends_on_its_row_alone(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    bundle, encoded = bundle_of(tmp_path, *overrides), columns(ROWS)
    ids, x = matrices(encoded)
    together = predict_logits(bundle, ids, x)
    np.testing.assert_allclose(together, plain_outputs(bundle, encoded), rtol=1e-4, atol=1e-4)
    order = torch.from_numpy(np.random.default_rng(1).permutation(ROWS))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        shuffled = predict_logits(bundle, ids[order], x[order])
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(shuffled, together[order])
    for start, rows in ((0, 1), (3, 1), (1000, 7), (BATCH_ROWS - 2, 500)):
        some = slice(start, start + rows)
        np.testing.assert_array_equal(predict_logits(bundle, ids[some], x[some]), together[some])


@pytest.mark.parametrize("rows", [0, 1, BATCH_ROWS, ROWS])
def test_scores_of_any_number_of_rows(tmp_path: Path, rows: int) -> None:
    bundle, encoded = bundle_of(tmp_path), columns(rows)
    found = Scorer(bundle, "none", 2)(encoded)
    expected = probability(predict_logits(bundle, *matrices(encoded)).astype(np.float64))
    assert found["output"].tolist() == predict_logits(bundle, *matrices(encoded)).tolist()
    assert found["score"].tolist() == found["model_score"].tolist() == expected.tolist()
    assert found["explanation"].equals(explain(bundle, *matrices(encoded), 2))


@pytest.mark.parametrize("kind", ["isotonic", "platt"])
def test_scores_are_calibrated(tmp_path: Path, kind: str) -> None:
    bundle, encoded = bundle_of(tmp_path), columns(50)
    found = Scorer(bundle, kind, 0)(encoded)
    outputs = predict_logits(bundle, *matrices(encoded)).astype(np.float64)
    curves = {
        "isotonic": np.interp(outputs, [-1.0, 1.0], [0.25, 0.75]),
        "platt": 1 / (1 + np.exp(-1.5 * outputs + 0.25)),
    }
    np.testing.assert_allclose(found["score"], curves[kind], rtol=1e-12)
    np.testing.assert_allclose(found["model_score"], 1 / (1 + np.exp(-outputs)), rtol=1e-12)
    assert "explanation" not in found


def test_a_bundle_refuses_what_it_cannot_give(tmp_path: Path) -> None:
    squared = ("task=regression", "train.early_stopping.metric=rmse")
    regression = bundle_of(tmp_path, *squared, scores=ScoreReference({}, None, None))
    with pytest.raises(ConfigError, match="'drawn' has no platt curve"):
        check_scorable(regression, "platt", 0)
    check_scorable(regression, "none", 3)
    with pytest.raises(ConfigError, match="'drawn' is of fnn"):
        check_scorable(bundle_of(tmp_path, "model.name=fnn"), "isotonic", 3)


def test_a_scorer_is_loaded_once(tmp_path: Path) -> None:
    path = write(bundle_of(tmp_path), tmp_path / "models/one")
    threads, of_loops = torch.get_num_threads(), numba.get_num_threads()
    try:
        scorer = load_scorer(path, "isotonic", 1)
        assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
    finally:
        torch.set_num_threads(threads)
        numba.set_num_threads(of_loops)
    assert load_scorer(path, "isotonic", 1) is scorer
    assert scorer.bundle.scores == SCORES


def held_of(name: str) -> dict[str, int]:
    """What this process holds in memory of a file that it has mapped, in bytes, by kind."""
    found = {"Rss": 0, "Pss": 0, "Anonymous": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if "-" in key:
            inside = name in line
        elif inside and key.rstrip(":") in found:
            found[key.rstrip(":")] += 1024 * int(values[0])
    return found


def test_processes_share_the_pages_of_a_local_bundle(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "model.name=fm", "model.embedding_dim=4095")
    path = write(bundle, tmp_path / "models/shared")

    def load() -> Bundle:
        loaded = load_bundle(path, check=False)
        loaded.table_VD.numpy().sum()  # every page
        return loaded

    told, tell = os.pipe()
    ended, end = os.pipe()
    if (other := os.fork()) == 0:
        try:
            loaded = load()
            os.write(tell, b"loaded")
            os.close(end)
            os.read(ended, 1)
        finally:
            os._exit(0)
    os.close(tell)
    assert os.read(told, 6) == b"loaded"
    loaded = load()
    both = held_of("shared/model.safetensors")
    os.close(end)
    os.waitpid(other, 0)
    alone = held_of("shared/model.safetensors")
    size = bundle.table_VD.nbytes
    assert torch.equal(loaded.table_VD, bundle.table_VD)
    assert both["Rss"] == alone["Rss"] == alone["Pss"] >= size
    assert both["Pss"] == pytest.approx(size / 2, rel=0.02)
    assert both["Anonymous"] == 0, "nothing was copied"


def test_a_remote_bundle_scores_as_a_local_one(tmp_path: Path) -> None:
    path, encoded = write(bundle_of(tmp_path), tmp_path / "models/one"), columns(500)
    remote = fsspec.filesystem("memory")
    remote.put(path, "/models/one", recursive=True)
    try:
        found = Scorer(load_bundle("memory://models/one"), "isotonic", 3)(encoded)
    finally:
        remote.rm("/models", recursive=True)
    expected = Scorer(load_bundle(path), "isotonic", 3)(encoded)
    assert found["score"].tolist() == expected["score"].tolist()
    assert found["explanation"].equals(expected["explanation"])
