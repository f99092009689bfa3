"""Checkpoints and bundles of a small step, without workers or files of features."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from conf.errors import ConfigError, DataError, RunError
from conf.manifest import write_manifest
from nfm.batch import field_of_slots
from nfm.bundle import load_bundle, new_model_id, write_bundle
from nfm.calibration import ScoreReference
from nfm.checkpoint import (
    Position,
    Tensors,
    dense_tensors,
    list_checkpoints,
    read_position,
    read_scores,
    restore,
    table_tensors,
)
from nfm.checkpoint_keeper import damage
from nfm.checkpoint_writer import CheckpointWriter
from nfm.collectives import Alone
from nfm.epoch_plan import Phase
from nfm.lookup import read_pooled
from nfm.predict import predict_logits
from nfm.registry import resolve_bundle
from nfm.step import TrainStep, build_step
from tests.data import OPTIMIZERS, make_config
from tests.unit.test_manifest import manifest
from tests.unit.test_step import ROWS, random_batch

FEATURES, FIELDS = manifest().num_features, manifest().fields
SCORES = ScoreReference({7: 3, 9: 1}, [[-1.0, 0.25], [0.0, 1.0]], [1.5, -0.25])


def steps(step: TrainStep, seed: int, number: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        step(random_batch(generator, FEATURES, step.table.weight_RD.dtype), ROWS)


def state_of(step: TrainStep) -> Tensors:
    return dense_tensors(step) | table_tensors(step)


def weights_of(step: TrainStep) -> Tensors:
    return {"table.weight": step.table.weight_RD} | {
        name: tensor for name, tensor in dense_tensors(step).items() if name.startswith("model.")
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_checkpoint_goes_on_as_if_nothing_happened(
    tmp_path: Path, optimizer: str
) -> None:
    config = make_config(tmp_path, *OPTIMIZERS[optimizer], "model.dropout=0.0", "train.seed=4")
    through = build_step(config, FIELDS, Alone(), dtype=torch.float64)
    steps(through, 0, 3)
    writer = CheckpointWriter(tmp_path / "c", Alone(), 2, 60.0)
    trained = Position(step=3, epoch=0, done=(Phase(1, 3),), loss=0.5)
    validated = Position(step=3, epoch=1, best_metrics={"auc": 0.5})
    writer.write(through, trained)
    steps(through, 1, 3)  # while the checkpoint is being written
    writer.wait()
    assert [read_position(path) for path in list_checkpoints(tmp_path / "c")] == [trained]
    writer.record(validated, SCORES)
    writer.wait()

    (checkpoint,) = list_checkpoints(tmp_path / "c")
    assert damage(checkpoint) is None
    assert (read_position(checkpoint), read_scores(checkpoint)) == (validated, SCORES)
    resumed = build_step(config, FIELDS, Alone(), dtype=torch.float64)
    restore(resumed, checkpoint)
    steps(resumed, 1, 3)
    expected = state_of(through)
    for name, tensor in state_of(resumed).items():
        assert torch.equal(tensor, expected[name]), name


def test_the_newest_checkpoints_are_kept_and_the_best_that_they_know(tmp_path: Path) -> None:
    step = build_step(make_config(tmp_path), FIELDS, Alone())
    writer = CheckpointWriter(tmp_path / "c", Alone(), 2, 60.0)
    for number, best in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4)):
        writer.write(step, Position(step=number, best_step=best))
        writer.wait()
        if number == 4:
            names = {path.name for path in (tmp_path / "c").iterdir()}
            assert names == {f"step-{n:010d}" for n in (1, 3, 4)}, "3 goes back to 1"
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names == {f"step-{n:010d}" for n in (4, 5)}


@pytest.mark.parametrize(
    "name", ["dense.safetensors", "table-00000-of-00001.safetensors", "state.json"]
)
@pytest.mark.parametrize("harm", ["cut", "changed", "removed"])
def test_a_damaged_checkpoint_is_recognised(tmp_path: Path, name: str, harm: str) -> None:
    step = build_step(make_config(tmp_path), FIELDS, Alone())
    writer = CheckpointWriter(tmp_path / "c", Alone(), 2, 60.0)
    writer.write(step, Position(step=1))
    writer.wait()
    (checkpoint,) = list_checkpoints(tmp_path / "c")
    read = []
    assert damage(checkpoint, lambda: read.append(1)) is None
    assert read, "no sign of life"
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    if harm == "cut":
        (checkpoint / name).write_bytes(content[: len(content) // 2])
    elif harm == "changed":
        (checkpoint / name).write_bytes(content[:-9] + b"\xff" + content[-8:])
    assert damage(checkpoint)


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    step = build_step(make_config(tmp_path), FIELDS, Alone())
    (tmp_path / "c").write_text("no directory")
    writer = CheckpointWriter(tmp_path / "c", Alone(), 2, 60.0)
    writer.write(step, Position(step=1))
    with pytest.raises(RunError, match="no checkpoint could be written"):
        writer.wait()


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, TrainStep]:
    config = make_config(tmp_path)
    vocabulary = Path(config.features.path) / "vocabulary"
    vocabulary.mkdir(parents=True)
    (vocabulary / "part-0.parquet").write_bytes(b"copied as it is")
    write_manifest(config.features.path, manifest())
    step = build_step(config, FIELDS, Alone())
    steps(step, 0, 2)
    path = tmp_path / "models" / new_model_id(config)
    write_bundle(str(path), config, manifest(), weights_of(step), {"auc": 0.7}, SCORES)
    return path, step


def test_a_bundle_predicts_what_the_trained_model_did(bundle: tuple[Path, TrainStep]) -> None:
    path, step = bundle
    batch = random_batch(torch.Generator().manual_seed(9), FEATURES, torch.float32)
    step.model.eval()
    read = read_pooled(step.table.weight_RD, batch.ids_BS, batch.x_BS, field_of_slots(FIELDS))
    expected = step.model(*read).detach().numpy()
    found = predict_logits(load_bundle(str(path)), batch.ids_BS, batch.x_BS)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert (path / "vocabulary/part-0.parquet").read_bytes() == b"copied as it is"
    assert load_bundle(str(path)).scores == SCORES


def test_a_bundle_names_its_files(bundle: tuple[Path, TrainStep]) -> None:
    path, _ = bundle
    names = {"model.safetensors", "config.yaml", "metrics.json", "README.md", "scores.json"}
    names |= {"manifest.json", "vocabulary/part-0.parquet"}
    record = json.loads((path / "bundle.json").read_text())
    contents = {name: (path / name).read_bytes() for name in names}
    assert record["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    there = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert (record["version"], there) == (1, names | {"bundle.json"})


def test_features_built_anew_meanwhile_publish_nothing(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    Path(config.features.path, "vocabulary").mkdir(parents=True)
    newer = manifest().model_copy(update={"created_at": "2026-02-02T00:00:00+00:00"})
    write_manifest(config.features.path, newer)
    weights = weights_of(build_step(config, FIELDS, Alone()))
    with pytest.raises(RunError, match="was built anew"):
        write_bundle(f"{tmp_path}/models/id", config, manifest(), weights, {}, SCORES)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "vocabulary/part-0.parquet", "bundle.json"])
@pytest.mark.parametrize("harm", ["removed", "cut", "changed", "longer"])
def test_a_damaged_bundle_is_refused(bundle: tuple[Path, TrainStep], name: str, harm: str) -> None:
    """Though it was whole when it was loaded before."""
    load_bundle(str(bundle[0]))
    path = bundle[0] / name
    content = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[:-3])
    elif harm == "changed":
        path.write_bytes(content[:-2] + b"\xff" + content[-1:])
    elif harm == "longer":
        path.write_bytes(content + b"}")
    half = f"is half-copied: its file '{name}' .*copy it again"
    messages = {"removed": half, "cut": half, "changed": "is damaged", "longer": "is damaged"}
    if name == "bundle.json":
        messages |= {"removed": "bundle.json, its last file, is missing", "cut": "half-copied"}
    with pytest.raises(DataError, match=messages[harm]):
        load_bundle(str(bundle[0]))


def test_a_bundle_is_read_once(
    bundle: tuple[Path, TrainStep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def sha256(fs: LocalFileSystem, path: str) -> str:
        read.append(path)
        return hashlib.sha256(fs.cat_file(path)).hexdigest()

    monkeypatch.setattr("nfm.bundle_record._sha256", sha256)
    copy = shutil.copytree(bundle[0], tmp_path / "copy")
    for _ in range(2):
        load_bundle(str(copy))
    files = {str(path) for path in copy.rglob("*") if path.is_file()}
    assert sorted(read) == sorted(files - {f"{copy}/bundle.json"})


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.yaml", "manifest.json", "scores.json"]
)
@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_what_a_worker_does_not_check_is_still_refused(
    bundle: tuple[Path, TrainStep], name: str, harm: str
) -> None:
    path = bundle[0] / name
    content = path.read_bytes()
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"damaged|no manifest"):
        load_bundle(str(bundle[0]), check=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2, "more": []}, "a newer release wrote bundle .*version 2.*: upgrade"),
        ({"version": "one"}, "is damaged"),
        ({"files": {"config.yaml": {"bytes": 1}}}, "is damaged"),
    ],
)
def test_a_record_that_is_not_ours_is_refused(
    bundle: tuple[Path, TrainStep], change: dict[str, object], message: str
) -> None:
    path = bundle[0] / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        load_bundle(str(bundle[0]))


def test_latest_is_the_newest_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    for name in ("20260101T000000-nfm-b", "20260102T000000-nfm-a", ".x.staging-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.json").write_text("{}")
    copied = tmp_path / "20260103T000000-nfm-c"  # its last file is still to come
    copied.mkdir()
    (copied / "manifest.json").write_text("{}")
    newest = f"{tmp_path}/20260102T000000-nfm-a"
    assert resolve_bundle(str(tmp_path), "latest") == newest
    assert resolve_bundle("elsewhere", f"{newest}/") == newest
    with pytest.raises(DataError, match=r"bundle\.json, its last file, is missing"):
        load_bundle(resolve_bundle(str(tmp_path), copied.name))
    with pytest.raises(ConfigError, match="no bundle 'nope'"):
        resolve_bundle(str(tmp_path), "nope")
    with pytest.raises(ConfigError, match="no bundle in"):
        resolve_bundle(str(tmp_path / "empty"), "latest")
