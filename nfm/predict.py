"""From encoded rows to scores, with a loaded bundle, in Spark's workers."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.nn import functional as F

from conf.errors import ConfigError, DataError
from conf.manifest import FieldSpec, Manifest
from conf.partition import EXPLANATION_TYPE
from conf.schema import EXPLAINED
from conf.scoring import Calibration
from nfm.batch import Columns, assemble
from nfm.bundle import Bundle, load_bundle
from nfm.explain import explain
from nfm.objective import Objective

# Rows that are predicted at once: few enough that what is in between stays in the cache.
BATCH_ROWS = 4096

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scorer:
    """Scores encoded rows.

    Attributes:
        bundle: The model.
        calibration: Whether scores are probabilities by a curve of the bundle.
        explain: How many contributions to list for each row.
    """

    bundle: Bundle
    calibration: Calibration
    explain: int

    def __call__(self, columns: Columns) -> dict[str, Any]:
        """Score rows, batch by batch.

        Args:
            columns: Per field, as ``nfm.batch.assemble`` takes them.

        Returns:
            ``output``, float32 [n]; ``model_score``, what it says (see ``nfm.objective``), and
            ``score``, the same after calibration: float64 [n]; with ``explain`` also
            ``explanation``, see ``nfm.explain``.
        """
        bundle = self.bundle
        ids, x = map(torch.from_numpy, assemble(columns, bundle.manifest.fields))
        output = predict_logits(bundle, ids, x)
        score = Objective.of(bundle.config, bundle.manifest).scores(output)
        found = {"output": output, "model_score": score, "score": score}
        if self.calibration != "none":
            found["score"] = bundle.scores.calibrate(self.calibration, output)
        if self.explain:
            found["explanation"] = _explain(bundle, ids, x, self.explain)
        return found


@functools.lru_cache(maxsize=1)
def load_scorer(path: str, calibration: Calibration, explain: int) -> Scorer:
    """The scorer of a Python worker of Spark; loaded once, without looking for damage.

    Args:
        path: Where this process finds the bundle.
        calibration: See ``Scorer``.
        explain: See ``Scorer``.

    Raises:
        ConfigError: The bundle cannot give that.
    """
    # Spark runs one task per core: a task that took more threads would slow the others.
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    bundle = load_bundle(path, check=False)
    check_scorable(bundle, calibration, explain)
    return Scorer(bundle, calibration, explain)


def check_scorable(bundle: Bundle, calibration: Calibration, explain: int) -> None:
    """Refuse what a bundle cannot give, whose task or model may be another than the config's.

    Raises:
        ConfigError: It has no curve, or its model's contributions are not known.
    """
    name = bundle.config.model.name
    if calibration != "none" and bundle.scores.isotonic is None:
        raise ConfigError(
            f"score.calibration: bundle '{bundle.model_id}' has no {calibration} curve, as it was "
            f"trained for a {bundle.config.task}; set it to none"
        )
    if explain and name not in EXPLAINED:
        raise ConfigError(
            f"score.explain: bundle '{bundle.model_id}' is of {name}, and contributions are known "
            f"for {', '.join(EXPLAINED)} only; set it to 0"
        )


def predict_logits(bundle: Bundle, ids_BS: torch.Tensor, x_BS: torch.Tensor) -> Array:
    """The model's outputs (see ``nfm.objective``): float32 [B].

    To the last bit, that of a row depends neither on the rows beside it nor on the number of cores:
    a served score is the one that was evaluated. BLAS adds up in an order that depends on how many
    rows and threads there are, so it is always given as many rows, and one thread.
    """
    logits = np.empty(len(ids_BS), np.float32)
    with torch.inference_mode(), _one_thread():
        for start in range(0, len(ids_BS), BATCH_ROWS):
            end = start + BATCH_ROWS
            ids, x = _filled(ids_BS[start:end], x_BS[start:end])
            block: Array = bundle.model(*bundle.read(bundle.model.reads, ids, x)).numpy()
            logits[start:end] = block[: len(logits) - start]
    return logits


def _explain(
    bundle: Bundle, ids_BS: torch.Tensor, x_BS: torch.Tensor, strongest: int
) -> pa.ListArray:
    with _one_thread():
        blocks = [
            explain(bundle, *_filled(ids, x), strongest).slice(0, len(ids))
            for ids, x in zip(ids_BS.split(BATCH_ROWS), x_BS.split(BATCH_ROWS), strict=True)
        ]
    return pa.chunked_array(blocks, EXPLANATION_TYPE).combine_chunks()


def _filled(ids_BS: torch.Tensor, x_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of a block, and so many empty ones that it is full."""
    lacking = BATCH_ROWS - len(ids_BS)
    if not lacking:
        return ids_BS, x_BS
    return F.pad(ids_BS, (0, 0, 0, lacking)), F.pad(x_BS, (0, 0, 0, lacking))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
