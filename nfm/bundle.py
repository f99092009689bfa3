"""The bundle: all that scoring needs of a training, in one directory that appears whole."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save

from conf import publishing, storage
from conf.errors import DataError, PipelineError, RunError
from conf.loader import dump_config, load_config
from conf.manifest import FILE_NAME as MANIFEST
from conf.manifest import VOCABULARY, Manifest, read_manifest, write_manifest
from conf.schema import Config
from conf.software import software
from nfm.batch import Batch, field_of_slots
from nfm.bundle_record import check_files, write_record
from nfm.calibration import ScoreReference
from nfm.collectives import Alone
from nfm.lookup import Reading, Rows, Tensors
from nfm.models import build_model
from nfm.registry import TIME
from nfm.table_model import TableModel

WEIGHTS, CONFIG, METRICS, CARD = "model.safetensors", "config.yaml", "metrics.json", "README.md"
SCORES = "scores.json"


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        model_id: Its name.
        config: The resolved configuration it was trained with.
        manifest: The features it was trained on.
        model: The dense part, in evaluation mode.
        table_VD: The embedding table [num_features, D].
        scores: What the validation rows said of its scores.
    """

    model_id: str
    config: Config
    manifest: Manifest
    model: TableModel
    table_VD: torch.Tensor
    scores: ScoreReference

    @cached_property
    def field_of_slots(self) -> torch.Tensor:
        """The number of the field that each slot of a row belongs to: int32 [S]."""
        return field_of_slots(self.manifest.fields)

    def read(self, reading: Reading, ids_BS: torch.Tensor, x_BS: torch.Tensor) -> Tensors:
        """What a kind of model reads of the table for some rows."""
        no_labels = x_BS.new_empty(len(x_BS))
        batch = Batch(ids_BS, x_BS, no_labels)
        return reading.compiled(self.field_of_slots).forward(
            Rows(self.table_VD, ids_BS, None), batch
        )


def new_model_id(config: Config) -> str:
    """Time first, so that names sort by age; then the model and the config's fingerprint."""
    now = datetime.now(UTC).strftime(TIME)
    return f"{now}-{config.model.name}-{config.fingerprint()[:8]}"


def write_bundle(
    path: str,
    config: Config,
    manifest: Manifest,
    weights: dict[str, torch.Tensor],
    metrics: dict[str, Any],
    scores: ScoreReference,
) -> None:
    """Publish a bundle; the vocabulary is copied, so that it scores when the features are gone.

    Raises:
        ConfigError: ``path`` exists.
        RunError: The features are no longer those of ``manifest``.
    """
    with publishing.staged_directory(path, overwrite=False, proof=MANIFEST) as staging:
        fs, plain = storage.filesystem(f"{staging}/{WEIGHTS}")
        with fs.open(plain, "wb") as file:
            file.write(save({name: tensor.contiguous() for name, tensor in weights.items()}))
        storage.write_text(f"{staging}/{CONFIG}", dump_config(config))
        storage.write_text(f"{staging}/{METRICS}", json.dumps(metrics, indent=1) + "\n")
        storage.write_text(f"{staging}/{SCORES}", json.dumps(scores.to_json()) + "\n")
        storage.write_text(f"{staging}/{CARD}", _card(path, config, manifest, metrics))
        source, plain = storage.filesystem(f"{config.features.path}/{VOCABULARY}")
        target, copy = storage.filesystem(f"{staging}/{VOCABULARY}")
        target.makedirs(copy)
        for file in source.glob(f"{plain}/*.parquet"):
            with (
                source.open(file, "rb") as reader,
                target.open(f"{copy}/{file.rpartition('/')[2]}", "wb") as writer,
            ):
                writer.write(reader.read())
        if read_manifest(config.features.path) != manifest:
            raise RunError(
                f"'{config.features.path}' was built anew while the model trained on it: nothing "
                f"was published; train again"
            )
        write_manifest(staging, manifest)
        write_record(staging)


def load_bundle(path: str, *, check: bool = True) -> Bundle:
    """Read a bundle. Nothing in it is unpickled.

    Args:
        path: Its directory.
        check: Whether to hold all its files against their checksums; a worker need not, where its
            job did.

    Raises:
        DataError: A file is missing or damaged, or a newer release wrote it.
    """
    if check:
        check_files(path)
    manifest = read_manifest(path)
    try:
        config = load_config(f"{path}/{CONFIG}")
        scores = ScoreReference.from_json(json.loads(storage.read_text(f"{path}/{SCORES}")))
        weights = _read_weights(f"{path}/{WEIGHTS}")
        model = build_model(config.model, manifest.fields, Alone(), compiled=True)
        table_VD = weights.pop("table.weight")
        model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()})
        expected = (manifest.num_features, config.model.factors + 1)
        if table_VD.shape != expected:
            raise ValueError(f"table {tuple(table_VD.shape)}, expected {expected}")
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError, PipelineError) as error:
        raise DataError(
            f"bundle '{path}' is damaged ({type(error).__name__}: {error}); "
            f"use another one or train again"
        ) from None
    return Bundle(path.rpartition("/")[2], config, manifest, model.eval(), table_VD, scores)


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    """The tensors; of a local file they are its pages, which all processes on the machine share."""
    fs, plain = storage.filesystem(path)
    if isinstance(fs, LocalFileSystem):
        return load_file(plain)
    with fs.open(plain, "rb") as file:
        return load(file.read())


def _card(path: str, config: Config, manifest: Manifest, metrics: dict[str, Any]) -> str:
    splits = ", ".join(f"{name} {split.rows:,}" for name, split in manifest.splits.items())
    found = "\n".join(f"- {name}: {value}" for name, value in metrics.items())
    made_by = ", ".join(f"{name} {version}" for name, version in software("torch").items())
    return (
        f"# {path.rpartition('/')[2]}\n\n"
        f"{config.model.name} for '{config.name}' ({config.task}), label {config.label.column}.\n\n"
        f"- fields: {', '.join(field.name for field in manifest.fields)}\n"
        f"- features: {manifest.num_features:,}\n"
        f"- rows: {splits}\n"
        f"- vocabulary: {manifest.vocabulary_fingerprint}\n"
        f"- {made_by}\n\n"
        f"Validation, best epoch:\n\n{found}\n"
    )
