"""Features and bundles by hand: a few rows of words, encoded by any vocabulary."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score

from conf.manifest import FieldSpec, FileSpec, Manifest, SplitSpec, write_manifest
from nfm.bundle import write_bundle
from nfm.calibration import ScoreReference
from nfm.collectives import Alone
from nfm.models import build_model
from tests.data import make_config
from tests.unit.test_batch import field
from tests.unit.test_manifest import manifest as any_manifest

Words = Mapping[str, Sequence[str]]  # per field, in the order of their ids

OLD, GOOD, BAD = "20260101T000000-lr-0", "20260201T000000-lr-1", "20260202T000000-lr-2"
BEFORE: Words = {"user": ["ann", "bob", "eve"], "tags": ["x", "y"]}
NOW: Words = {"tags": ["new", "y", "x"], "user": ["bob", "cid", "ann"]}
ROWS = [  # user, tags, label; the users' weights below order them all but for cid
    ("ann", ["x"], 1),
    ("ann", ["new", "y"], 1),
    ("bob", ["y", "x"], 0),
    ("bob", [], 0),
    ("cid", ["y"], 1),
    ("cid", ["x", "new"], 1),
    ("dan", ["x"], 0),
]


def features_of(directory: Path, words: Words, *more: FieldSpec) -> Manifest:
    """Features whose test split is ROWS, in an encoding of their own."""
    fields, offset = [], 0
    for name, values in words.items():
        kind, length = ("multi_valued", 2) if name == "tags" else ("categorical", 1)
        fields.append(field(name, kind, 2 + len(values), offset, length))
        offset += 2 + len(values)
    for spec in more:
        fields.append(spec.model_copy(update={"offset": offset}))
        offset += spec.cardinality
    columns = encoded(words, *more)
    columns["label"] = np.array([label for *_, label in ROWS], np.float32)
    (directory / "test").mkdir(parents=True)
    table = pa.table(
        {
            name: pa.array(column.tolist(), pa.list_(pa.int32())) if column.ndim == 2 else column
            for name, column in columns.items()
        }
    )
    pq.write_table(table, directory / "test/part-0.parquet")
    (directory / "vocabulary").mkdir()
    known = [
        {"field": name, "value": value, "id": number}
        for name, values in words.items()
        for number, value in enumerate(values, start=2)
    ]
    schema = pa.schema({"field": pa.string(), "value": pa.string(), "id": pa.int32()})
    pq.write_table(pa.Table.from_pylist(known, schema), directory / "vocabulary/part-0.parquet")
    split = SplitSpec(
        files=[FileSpec(path="test/part-0.parquet", rows=len(ROWS))], rows=len(ROWS), positives=4
    )
    made = any_manifest().model_copy(
        update={
            "fields": fields,
            "num_features": offset,
            "splits": {"test": split},
            "vocabulary_fingerprint": str(words),
        }
    )
    write_manifest(str(directory), made)
    return made


def encoded(words: Words, *more: FieldSpec) -> dict[str, np.ndarray]:
    """ROWS as local ids: 0 missing, 1 unknown, then the words."""
    ids = {
        name: {word: number for number, word in enumerate(values, start=2)}
        for name, values in words.items()
    }
    of_tags = ids.get("tags", {})
    tags = [[of_tags.get(tag, 1) for tag in tags] or [0] for _, tags, _ in ROWS]
    columns = {
        "user": np.array([ids["user"].get(user, 1) for user, *_ in ROWS], np.int32),
        "tags": np.array([[*row, -1][:2] for row in tags], np.int32),
    }
    names = [*words, *(spec.name for spec in more)]
    return {name: columns.get(name, np.ones(len(ROWS), np.int32)) for name in names}


def publish(
    root: Path, model_id: str, words: Words, seed: int, *overrides: str, bias: float = 0.0
) -> dict[str, dict[str, float]]:
    """A bundle with random weights; of an lr they are returned per field and word."""
    features = root / "trained" / model_id
    config = make_config(root, f"features.path={features}", "model.name=lr", *overrides)
    manifest = features_of(features, words)
    torch.manual_seed(seed)
    table_VD = torch.randn(manifest.num_features, config.model.factors + 1)
    model = build_model(config.model, manifest.fields, Alone())
    model.bias.data.fill_(bias)
    dense = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    metrics = {"best_epoch": 0, "auc": 0.7 + seed / 100}
    scores = ScoreReference({}, None, None)
    path = f"{root}/models/{model_id}"
    write_bundle(path, config, manifest, {"table.weight": table_VD} | dense, metrics, scores)
    weights = {}
    for spec in manifest.fields:
        names = ["missing", "unknown", *words[spec.name]]
        rows = table_VD[spec.offset : spec.offset + spec.cardinality, -1]
        weights[spec.name] = dict(zip(names, rows.tolist(), strict=True))
    return weights


def auc_by_hand(weights: dict[str, dict[str, float]]) -> float:
    """The AUC of an lr on ROWS, value by value through a dictionary."""
    logits = []
    for user, tags, _ in ROWS:
        of_tags = [weights["tags"].get(tag, weights["tags"]["unknown"]) for tag in tags]
        of_user = weights["user"].get(user, weights["user"]["unknown"])
        logits.append(of_user + (np.mean(of_tags) if tags else weights["tags"]["missing"]))
    return float(roc_auc_score([label for *_, label in ROWS], np.float32(logits)))
