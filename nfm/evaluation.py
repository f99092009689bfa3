"""A bundle judged on all rows of a split: metrics, a reliability table, segments."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from conf.errors import ConfigError, RunError
from conf.evaluation import EvaluateConfig, check_grouping
from conf.manifest import Manifest
from nfm.bundle import Bundle
from nfm.epoch_plan import Block
from nfm.metrics import by_group, metrics, reliability
from nfm.objective import Objective
from nfm.predict import BATCH_ROWS, check_vocabulary, predict_logits
from nfm.segments import in_tenths, value_names
from nfm.stream import stream_batches
from nfm.tally import ListTallier, Tallier, Tally

Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """What a bundle came to; docs/metrics.md says what each figure means.

    Attributes:
        metrics: By name.
        reliability: A row per bin; empty where scores are no probabilities.
        segments: Per field that was asked for, a row per value, those with most rows first.
    """

    metrics: dict[str, float]
    reliability: Table
    segments: dict[str, Table]


def evaluate_split(
    bundle: Bundle, features: str, manifest: Manifest, config: EvaluateConfig
) -> Evaluation:
    """Judge a bundle on all rows of a split, each counted once.

    Args:
        bundle: The model.
        features: Directory of the features.
        manifest: Its manifest.
        config: Says which split, and what to group its rows by.

    Raises:
        ConfigError: Rows cannot be grouped by a field.
        DataError: The features were encoded with another vocabulary than the bundle's.
        RunError: The model's outputs are infinite or NaN.
    """
    check_evaluable(bundle, features, manifest, config)
    objective = Objective.of(bundle.config, bundle.manifest)
    tally, of_lists = _tallies(bundle, features, manifest, config)
    if not np.isfinite(tally.output_N).all():
        raise RunError(f"bundle '{bundle.model_id}' predicts infinity or NaN; train again")
    table = reliability(tally, objective) if objective.probabilistic else {}
    segments = {}
    for name in config.segments:
        counted, field = of_lists.get(name, tally), manifest.field(name)
        if field.kind == "numeric":
            counted, field = in_tenths(counted, field)
        columns = by_group(counted, objective, name)
        names = value_names(features, field, columns["id"])
        order = np.argsort(-columns["rows"], kind="stable")
        columns = {"value": names, **columns}
        segments[name] = _table({name: column[order] for name, column in columns.items()})
    group_by = manifest.field(config.group_by) if config.group_by else None
    return Evaluation(metrics(tally, objective, group_by), _table(table), segments)


def check_evaluable(
    bundle: Bundle, features: str, manifest: Manifest, config: EvaluateConfig
) -> None:
    """Refuse features that the bundle does not know, or cannot be judged on as asked.

    Raises:
        ConfigError: Rows cannot be grouped by a field.
        DataError: The features were encoded with another vocabulary than the bundle's.
    """
    check_vocabulary(bundle, manifest, features)
    if manifest.task != "binary" and config.group_by:
        raise ConfigError("evaluate.group_by: GAUC goes with a binary task")
    try:
        check_grouping(config, manifest.fields)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _tallies(
    bundle: Bundle, features: str, manifest: Manifest, config: EvaluateConfig
) -> tuple[Tally, dict[str, Tally]]:
    """All rows, each once, and by field that is a list, each for every value that it holds."""
    files = manifest.splits[config.split].files
    paths = [f"{features}/{file.path}" for file in files]
    blocks = [Block((index,), file.rows, entropy=None) for index, file in enumerate(files)]
    is_list = {field.name: field.kind == "multi_valued" for field in manifest.fields}
    of_rows = Tallier(manifest.fields, [name for name in config.grouping if not is_list[name]])
    of_lists = {
        name: ListTallier(manifest.fields, name) for name in config.segments if is_list[name]
    }
    for batch in stream_batches(blocks, paths, manifest.fields, batch_rows=BATCH_ROWS):
        output_B = torch.from_numpy(predict_logits(bundle, batch.ids_BS, batch.x_BS))
        for tallier in (of_rows, *of_lists.values()):
            tallier.add(output_B, batch)
    return of_rows.tally(), {name: tallier.tally() for name, tallier in of_lists.items()}


def _table(columns: dict[str, npt.NDArray[Any]]) -> Table:
    """Rows for a report: what does not exist (NaN) is left out."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {
            name: value
            for name, value in zip(columns, row, strict=True)
            if not (isinstance(value, float) and math.isnan(value))
        }
        for row in rows
    ]
