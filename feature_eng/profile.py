"""What is known of the rows after one pass: gates on label and weight, fitted statistics."""

import functools
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from conf.errors import DataError
from conf.fields import LABEL, WEIGHT, BucketisedField, MultiValuedField, NumericField
from conf.manifest import FieldSpec
from conf.schema import SPLITS, Config
from feature_eng.raw import SPLIT
from feature_eng.split import TRAIN
from feature_eng.tally import Moments, Tally
from feature_eng.workers import Batches, in_worker

_QUANTILE_ACCURACY = 10_000
# Partial sums that are merged leave so much of the values themselves where nothing varies.
_LAST_BITS = 1e-12


@dataclass(frozen=True)
class Profile:
    """What the pass found.

    Attributes:
        rows: Rows per split.
        positives: Labels that are 1 per split.
        label_range: Least and greatest label of the training rows.
        edges: Per bucketised field the lower edges of all buckets but the first, ascending; those
            of quantiles are not looked for where a base has them.
        scales: Per numeric field, what is subtracted and what it is then divided by.
        truncated: Per multi-valued field and split, the share of rows with too many values.
        missing: Per numeric field and split, the share of rows without a value.
    """

    rows: dict[str, int]
    positives: dict[str, int]
    label_range: tuple[float, float]
    edges: dict[str, list[float]]
    scales: dict[str, tuple[float, float]]
    truncated: dict[str, dict[str, float]]
    missing: dict[str, dict[str, float]]


def profile_rows(rows: DataFrame, config: Config, fields: Sequence[FieldSpec]) -> Profile:
    """Count, check and fit in a pass over canonical rows that writes nothing.

    Raises:
        DataError: See ``make_profile``.
    """
    observed, quantiles = observe(rows, quantile_columns(config))
    weights = [WEIGHT] if config.weight else []
    counted = [f.name for f in fields if f.kind not in ("categorical", "hashed")]
    tallies = (
        observed.select(SPLIT, LABEL, *weights, *counted)
        .mapInArrow(in_worker(functools.partial(_tally, fields=fields)), "tally string")
        .collect()
    )
    tally = Tally.total(Tally.from_json(row["tally"]) for row in tallies)
    return make_profile(tally, quantiles(), config)


def _tally(batches: Batches, fields: Sequence[FieldSpec]) -> Batches:
    tally = Tally.total(Tally.of(pa.Table.from_batches([batch]), fields) for batch in batches)
    yield pa.record_batch([[tally.to_json()]], ["tally"])


def observe(
    rows: DataFrame, wanted: dict[str, Column]
) -> tuple[DataFrame, Callable[[], dict[str, Any]]]:
    """Rows of which Spark computes aggregates while they pass, and what these were, once they have.

    Args:
        rows: The rows.
        wanted: The aggregates.
    """
    if not wanted:
        return rows, dict
    seen = Observation()
    # By position: a field's name would be read as a part of an expression.
    columns = [column.alias(f"m{number}") for number, column in enumerate(wanted.values())]

    def found() -> dict[str, Any]:
        values = seen.get  # asks the JVM each time
        return {name: values[f"m{number}"] for number, name in enumerate(wanted)}

    return rows.observe(seen, *columns), found


def quantile_columns(config: Config, fitted: Collection[str] = ()) -> dict[str, Column]:
    """The aggregates that edges are made of: quantiles of the training rows, as JSON.

    Args:
        config: The run.
        fitted: Fields that the base has, and their edges with them.
    """
    wanted = {}
    for field in config.fields:
        if (
            isinstance(field, BucketisedField)
            and field.method == "quantile"
            and field.name not in fitted
        ):
            value = F.when(F.col(SPLIT) == TRAIN, F.col(field.name))
            cuts = [i / field.num_buckets for i in range(1, field.num_buckets)]
            # Observed arrays stay in Java.
            quantiles = F.percentile_approx(value, cuts, _QUANTILE_ACCURACY)
            wanted[f"quantiles:{field.name}"] = F.to_json(quantiles)
    return wanted


def make_profile(tally: Tally, quantiles: dict[str, Any], config: Config) -> Profile:
    """The profile of what was counted.

    Args:
        tally: Of all rows.
        quantiles: Values of ``quantile_columns``, and maybe of others.
        config: The run.

    Raises:
        DataError: No rows, an empty split, a label that is null, constant or not 0/1 where it
            must be, or a weight that is null, negative or always 0.
    """
    _check(tally, config)
    label = tally.moments[LABEL]
    return Profile(
        rows=_by_split(tally, "rows:{}"),
        positives=_by_split(tally, "positives:{}"),
        label_range=(label.least, label.greatest),
        edges={
            field.name: _edges(
                field, quantiles.get(f"quantiles:{field.name}"), tally.moments[field.name]
            )
            for field in config.fields
            if isinstance(field, BucketisedField)
        },
        scales={
            field.name: _scale(field, tally.moments[field.name])
            for field in config.fields
            if isinstance(field, NumericField)
        },
        truncated=_shares(tally, "truncated", config, MultiValuedField),
        missing=_shares(tally, "missing", config, NumericField),
    )


def _by_split(tally: Tally, key: str) -> dict[str, int]:
    return {split: tally.counts[key.format(split)] for split in SPLITS}


def _shares(tally: Tally, what: str, config: Config, kind: type) -> dict[str, dict[str, float]]:
    """By field of a kind and split, the share of rows that were counted."""
    rows = _by_split(tally, "rows:{}")
    return {
        field.name: {
            split: count / rows[split]
            for split, count in _by_split(tally, f"{what}:{{}}:{field.name}").items()
        }
        for field in config.fields
        if isinstance(field, kind)
    }


def _edges(field: BucketisedField, quantiles: str | None, found: Moments) -> list[float]:
    if field.edges is not None:
        return field.edges
    if field.method == "quantile":
        return sorted(set(json.loads(quantiles or "[]")))
    edges, power = [], 1.0
    while power <= found.greatest:
        edges.append(power)
        power *= 2
    return edges


def _scale(field: NumericField, found: Moments) -> tuple[float, float]:
    """A field that is null in training, or varies in its last bits at most, divides by 1."""
    if field.scale == "none" or not found.size:
        return 0.0, 1.0
    least, greatest = found.least, found.greatest
    standard = field.scale == "standard"
    deviation = math.sqrt(found.squares / found.size)
    shift, spread = (found.mean, deviation) if standard else (least, greatest - least)
    if spread <= _LAST_BITS * max(abs(least), abs(greatest)):
        return least, 1.0
    return shift, spread


def _check(tally: Tally, config: Config) -> None:
    column, counts, rows = config.label.column, tally.counts, _by_split(tally, "rows:{}")
    if counts["rows"] == 0:
        raise DataError(
            f"raw table '{config.raw.name}' is empty (in the days asked for); nothing to build from"
        )
    if counts[f"null:{LABEL}"]:
        raise DataError(
            f"label '{column}' is null (or not finite) in {counts[f'null:{LABEL}']} of "
            f"{counts['rows']} rows; drop those rows or fill them"
        )
    if config.task == "binary" and counts["not_binary"]:
        raise DataError(
            f"label '{column}' is neither 0 nor 1 in {counts['not_binary']} of {counts['rows']} "
            f"rows, as task 'binary' needs; set label.threshold, or task: regression"
        )
    if counts["no_split"]:
        raise DataError(
            f"split: {counts['no_split']} of {counts['rows']} rows are in none, for the column "
            f"'{getattr(config.split, 'column', None)}' is null there, or says something else than "
            f"{', '.join(SPLITS)}; drop those rows or fill them"
        )
    empty = [split for split in SPLITS if rows[split] == 0]
    if empty:
        raise DataError(
            f"split '{empty[0]}' has no rows of {counts['rows']}; change the shares or cuts"
        )
    if config.weight:
        _check_weight(tally, config.weight)
    if config.task == "binary":
        for split, positives in _by_split(tally, "positives:{}").items():
            if positives in (0, rows[split]):
                constant = int(positives > 0)
                raise DataError(
                    f"label '{column}' is {constant} in every row of split '{split}': nothing can "
                    f"be learnt or judged; check the column, label.threshold and the split"
                )
    elif tally.moments[LABEL].least == tally.moments[LABEL].greatest:
        raise DataError(
            f"label '{column}' is {tally.moments[LABEL].least:g} in every training row: nothing "
            f"can be learnt; check the column"
        )


def _check_weight(tally: Tally, column: str) -> None:
    rows, null = tally.counts["rows"], tally.counts[f"null:{WEIGHT}"]
    negative = tally.counts[f"negative:{WEIGHT}"]
    if null:
        raise DataError(
            f"weight '{column}' is null (or not finite) in {null} of "
            f"{rows} rows; drop those rows or fill them"
        )
    if negative:
        raise DataError(
            f"weight '{column}' is negative in {negative} of {rows} "
            f"rows, 0 or more was expected; drop those rows or mend them"
        )
    if tally.moments[WEIGHT].greatest == 0:
        raise DataError(
            f"weight '{column}' is 0 in every training row: nothing can be learnt; check the column"
        )
