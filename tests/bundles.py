"""Bundles of random weights, and encoded rows for them."""

from pathlib import Path

import numpy as np
import torch

from conf.manifest import FieldSpec, Manifest, SourceSpec, SplitSpec, write_manifest
from conf.schema import LabelConfig
from nfm.batch import Columns
from nfm.bundle import Bundle, write_bundle
from nfm.calibration import ScoreReference
from nfm.collectives import Alone
from nfm.models import build_model
from tests.data import make_config

_NUMBERS = [
    ("user", "categorical", 40, 1),
    ("price", "numeric", 1, 1),
    ("tags", "multi_valued", 9, 3),
    ("age", "bucketised", 5, 1),
    ("words", "multi_valued", 30, 2),
]
_OFFSETS = np.cumsum([0, *(cardinality for _, _, cardinality, _ in _NUMBERS)]).tolist()
FIELDS = [
    FieldSpec.model_validate(
        {"name": name, "kind": kind, "source": name, "is_expr": False}
        | {"cardinality": cardinality, "offset": offset, "length": length}
    )
    for (name, kind, cardinality, length), offset in zip(_NUMBERS, _OFFSETS, strict=False)
]
SCORES = ScoreReference({7: 3, 9: 1}, [[-1.0, 1.0], [0.25, 0.75]], [1.5, -0.25])


def manifest(task: str = "binary") -> Manifest:
    """The manifest of no rows of these fields."""
    split = SplitSpec(files=[], rows=0, positives=0 if task == "binary" else None)
    return Manifest(
        schema_version=2,
        name="m",
        task=task,
        keys=["k"],
        label=LabelConfig(column="clicked"),
        label_range=None if task == "binary" else [-1.0, 1.0],
        fields=FIELDS,
        num_features=_OFFSETS[-1],
        splits={"train": split, "valid": split, "test": split},
        vocabulary_fingerprint="0" * 32,
        source=SourceSpec(name="raw", rows=0),
        config_fingerprint="1",
        software={},
        created_at="2026-01-01T00:00:00+00:00",
    )


def bundle_of(
    root: Path, *overrides: str, dtype: torch.dtype = torch.float32, scores: ScoreReference = SCORES
) -> Bundle:
    """A bundle whose weights, batch norm's among them, are drawn."""
    config = make_config(root, *overrides)
    torch.manual_seed(3)
    model = build_model(config.model, FIELDS, Alone(), compiled=True).to(dtype).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += 0.3 * torch.rand_like(tensor)
    table_VD = torch.randn(_OFFSETS[-1], config.model.factors + 1, dtype=dtype)
    return Bundle("drawn", config, manifest(config.task), model, table_VD, scores)


def write(bundle: Bundle, path: Path) -> str:
    """Publish a bundle, and the features that it was trained on."""
    features = Path(bundle.config.features.path)
    (features / "vocabulary").mkdir(parents=True, exist_ok=True)
    write_manifest(str(features), bundle.manifest)
    weights = {f"model.{name}": tensor for name, tensor in bundle.model.state_dict().items()}
    weights["table.weight"] = bundle.table_VD
    write_bundle(str(path), bundle.config, bundle.manifest, weights, {}, bundle.scores)
    return str(path)


def columns(rows: int, seed: int = 0) -> Columns:
    """Encoded rows; lists are of any length up to the field's, and of none."""
    rng = np.random.default_rng(seed)

    def of(field: FieldSpec) -> np.ndarray:
        if field.kind == "numeric":
            return rng.normal(size=rows).astype(np.float32)
        if field.kind != "multi_valued":
            return rng.integers(field.cardinality, size=rows, dtype=np.int32)
        ids = rng.integers(field.cardinality, size=(rows, field.length), dtype=np.int32)
        present = np.arange(field.length) < rng.integers(field.length + 1, size=(rows, 1))
        return np.where(present, ids, np.int32(-1))

    return {field.name: of(field) for field in FIELDS}
