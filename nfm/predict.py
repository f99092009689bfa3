"""From encoded rows to scores, with a loaded bundle, in Spark's workers."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conf.errors import DataError
from conf.manifest import FieldSpec, Manifest
from nfm.batch import Columns, assemble, field_of_slots
from nfm.bundle import Bundle, load_bundle
from nfm.objective import Objective

BATCH_ROWS = 16_384


def predict_logits(bundle: Bundle, ids_BS: torch.Tensor, x_BS: torch.Tensor) -> npt.NDArray[Any]:
    """The model's outputs (see ``nfm.objective``): float32 [B]."""
    field_S = field_of_slots(bundle.manifest.fields)
    with torch.inference_mode():
        read = bundle.model.reads.read(bundle.table_VD, ids_BS, x_BS, field_S)
        logits: npt.NDArray[Any] = bundle.model(*read).numpy()
    return logits


def predict_scores(bundle: Bundle, columns: Columns) -> npt.NDArray[Any]:
    """Scores of encoded columns (see ``nfm.objective``); float64 [n]."""
    ids, x = assemble(columns, bundle.manifest.fields)
    logits = predict_logits(bundle, torch.from_numpy(ids), torch.from_numpy(x))
    return Objective.of(bundle.config, bundle.manifest).scores(logits)


def score_columns(bundle_path: str, columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Score encoded columns in a Python worker of Spark; batch by batch, to stay in the cache.

    Args:
        bundle_path: Where this process finds the bundle; it is loaded once.
        columns: Per field, as ``predict_scores`` takes them.

    Returns:
        Scores, float64 [n].
    """
    bundle = _load_once(bundle_path)
    rows = len(columns[bundle.manifest.fields[0].name])
    return np.concatenate(
        [
            predict_scores(
                bundle, {name: c[start : start + BATCH_ROWS] for name, c in columns.items()}
            )
            for start in range(0, rows, BATCH_ROWS)
        ]
    )


def check_vocabulary(bundle: Bundle, manifest: Manifest, features: str) -> None:
    """Refuse features whose ids mean something else to the bundle.

    Raises:
        DataError: The vocabularies or the fitted fields differ.
    """
    trained, found = bundle.manifest.fields, manifest.fields
    ours, theirs = bundle.manifest.vocabulary_fingerprint, manifest.vocabulary_fingerprint
    if [field.name for field in trained] != [field.name for field in found]:
        difference = "other fields"
    elif ours != theirs:
        difference = f"vocabulary {theirs}, not {ours}"
    else:
        pairs = zip(trained, found, strict=True)
        differing = [a.name for a, b in pairs if not (a.encodes_like(b) and _range(a) == _range(b))]
        if not differing:
            return
        difference = f"another encoding of {', '.join(differing)}"
    raise DataError(
        f"bundle '{bundle.model_id}' does not know the ids of '{features}', "
        f"which has {difference}: use the features that it was trained on, or train again"
    )


def _range(field: FieldSpec) -> tuple[int, int, int]:
    return field.offset, field.cardinality, field.length


@functools.lru_cache(maxsize=1)
def _load_once(path: str) -> Bundle:
    # Spark runs one task per core: a task that took more threads would slow the others.
    torch.set_num_threads(1)
    return load_bundle(path)
