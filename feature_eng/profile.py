"""One aggregate pass over the canonical rows: gates on label and weight, fitted statistics."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.errors import DataError
from conf.fields import LABEL, WEIGHT, BucketisedField, MultiValuedField, NumericField
from conf.schema import SPLITS, Config
from feature_eng.raw import SPLIT

_QUANTILE_ACCURACY = 10_000
# Partial sums that are merged leave so much of the values themselves where nothing varies.
_LAST_BITS = 1e-12
_STATISTICS = {"mean": F.mean, "deviation": F.stddev_pop, "least": F.min, "greatest": F.max}


@dataclass(frozen=True)
class Profile:
    """What the pass found.

    Attributes:
        rows: Rows per split.
        positives: Sum of the labels per split.
        label_range: Least and greatest label of the training rows.
        edges: Per bucketised field that no base has, the lower edges of all buckets but the first,
            ascending.
        scales: Per numeric field, what is subtracted and what it is then divided by.
        truncated: Per multi-valued field and split, the share of rows with too many values.
        missing: Per numeric field and split, the share of rows without a value.
    """

    rows: dict[str, int]
    positives: dict[str, float]
    label_range: tuple[float, float]
    edges: dict[str, list[float]]
    scales: dict[str, tuple[float, float]]
    truncated: dict[str, dict[str, float]]
    missing: dict[str, dict[str, float]]


def profile_rows(rows: DataFrame, config: Config) -> Profile:
    """Count, check and fit in a pass over the rows, as without a base.

    Raises:
        DataError: See ``read_profile``.
    """
    wanted = statistics(config)
    found = rows.agg(*wanted.values()).head()
    assert found is not None
    return read_profile(dict(zip(wanted, found, strict=True)), config)


def statistics(config: Config, fitted: Collection[str] = ()) -> dict[str, Column]:
    """The aggregates that a profile is made of; everything fitted sees the training rows only.

    Args:
        config: The run.
        fitted: Fields that the base has: no edges are looked for.
    """
    in_train = F.col(SPLIT) == "train"
    label = F.col(LABEL)
    wanted: dict[str, Column] = {
        "rows": F.count(F.lit(1)),
        "no_split": F.count_if(F.col(SPLIT).isNull()),
        "null_label": F.count_if(label.isNull()),
        "not_binary": F.count_if(~label.isin(0.0, 1.0)),
        "label_min": F.min(F.when(in_train, label)),
        "label_max": F.max(F.when(in_train, label)),
    }
    if config.weight:
        weight = F.col(WEIGHT)
        wanted["null_weight"] = F.count_if(weight.isNull())
        wanted["negative_weight"] = F.count_if(weight < 0)
        wanted["weight_max"] = F.max(F.when(in_train, weight))
    for split in SPLITS:
        wanted[f"rows:{split}"] = F.count_if(F.col(SPLIT) == split)
        wanted[f"positives:{split}"] = F.sum(F.when(F.col(SPLIT) == split, label))
    for field in config.fields:
        value = F.when(in_train, F.col(field.name))
        if isinstance(field, BucketisedField):
            if field.method == "quantile" and field.name not in fitted:
                cuts = [i / field.num_buckets for i in range(1, field.num_buckets)]
                quantiles = F.percentile_approx(value, cuts, _QUANTILE_ACCURACY)
                # Observed arrays stay in Java.
                wanted[f"quantiles:{field.name}"] = F.to_json(quantiles)
            elif field.method == "log2" and field.name not in fitted:
                wanted[f"greatest:{field.name}"] = F.max(value)
        elif isinstance(field, NumericField):
            for name, statistic in _STATISTICS.items():
                wanted[f"{name}:{field.name}"] = statistic(value)
            for split in SPLITS:
                wanted[f"missing:{split}:{field.name}"] = F.count_if(
                    (F.col(SPLIT) == split) & F.col(field.name).isNull()
                )
        elif isinstance(field, MultiValuedField):
            too_long = F.size(F.col(field.name)) > field.max_length
            for split in SPLITS:
                wanted[f"truncated:{split}:{field.name}"] = F.count_if(
                    (F.col(SPLIT) == split) & too_long
                )
    return wanted


def read_profile(result: dict[str, Any], config: Config, fitted: Collection[str] = ()) -> Profile:
    """The profile that the values of ``statistics`` make.

    Raises:
        DataError: No rows, an empty split, a label that is null, constant or not 0/1 where it
            must be, or a weight that is null, negative or always 0.
    """
    _check(result, config)
    return Profile(
        rows={split: result[f"rows:{split}"] for split in SPLITS},
        positives={split: result[f"positives:{split}"] for split in SPLITS},
        label_range=(result["label_min"], result["label_max"]),
        edges={
            field.name: _edges(
                field, result.get(f"quantiles:{field.name}"), result.get(f"greatest:{field.name}")
            )
            for field in config.fields
            if isinstance(field, BucketisedField) and field.name not in fitted
        },
        scales={
            field.name: _scale(field, *(result[f"{name}:{field.name}"] for name in _STATISTICS))
            for field in config.fields
            if isinstance(field, NumericField)
        },
        truncated=_shares(result, "truncated", config, MultiValuedField),
        missing=_shares(result, "missing", config, NumericField),
    )


def _shares(
    result: dict[str, Any], what: str, config: Config, kind: type
) -> dict[str, dict[str, float]]:
    """By field of a kind and split, the share of rows that were counted."""
    return {
        field.name: {
            split: result[f"{what}:{split}:{field.name}"] / result[f"rows:{split}"]
            for split in SPLITS
        }
        for field in config.fields
        if isinstance(field, kind)
    }


def _edges(field: BucketisedField, quantiles: str | None, greatest: float | None) -> list[float]:
    if field.edges is not None:
        return field.edges
    if field.method == "quantile":
        return sorted(set(json.loads(quantiles or "[]")))
    edges, power = [], 1.0
    while greatest is not None and power <= greatest:
        edges.append(power)
        power *= 2
    return edges


def _scale(
    field: NumericField,
    mean: float | None,
    deviation: float | None,
    least: float | None,
    greatest: float | None,
) -> tuple[float, float]:
    """A field that is null in training, or varies in its last bits at most, divides by 1."""
    if mean is None or deviation is None or least is None or greatest is None:
        return 0.0, 1.0
    if field.scale == "none":
        return 0.0, 1.0
    standard = field.scale == "standard"
    shift, spread = (mean, deviation) if standard else (least, greatest - least)
    if spread <= _LAST_BITS * max(abs(least), abs(greatest)):
        return least, 1.0
    return shift, spread


def _check(result: dict[str, Any], config: Config) -> None:
    column = config.label.column
    if result["rows"] == 0:
        raise DataError(
            f"raw table '{config.raw.name}' is empty (in the days asked for); nothing to build from"
        )
    if result["null_label"]:
        raise DataError(
            f"label '{column}' is null (or not finite) in {result['null_label']} of "
            f"{result['rows']} rows; drop those rows or fill them"
        )
    if config.task == "binary" and result["not_binary"]:
        raise DataError(
            f"label '{column}' is neither 0 nor 1 in {result['not_binary']} of {result['rows']} "
            f"rows, as task 'binary' needs; set label.threshold, or task: regression"
        )
    if result["no_split"]:
        raise DataError(
            f"split: {result['no_split']} of {result['rows']} rows are in none, for the column "
            f"'{getattr(config.split, 'column', None)}' is null there, or says something else than "
            f"{', '.join(SPLITS)}; drop those rows or fill them"
        )
    empty: Sequence[str] = [split for split in SPLITS if result[f"rows:{split}"] == 0]
    if empty:
        raise DataError(
            f"split '{empty[0]}' has no rows of {result['rows']}; change the shares or cuts"
        )
    if config.weight:
        _check_weight(result, config.weight)
    if config.task == "binary":
        for split in SPLITS:
            if result[f"positives:{split}"] in (0, result[f"rows:{split}"]):
                constant = int(result[f"positives:{split}"] > 0)
                raise DataError(
                    f"label '{column}' is {constant} in every row of split '{split}': nothing can "
                    f"be learnt or judged; check the column, label.threshold and the split"
                )
    elif result["label_min"] == result["label_max"]:
        raise DataError(
            f"label '{column}' is {result['label_min']:g} in every training row: nothing can be "
            f"learnt; check the column"
        )


def _check_weight(result: dict[str, Any], column: str) -> None:
    if result["null_weight"]:
        raise DataError(
            f"weight '{column}' is null (or not finite) in {result['null_weight']} of "
            f"{result['rows']} rows; drop those rows or fill them"
        )
    if result["negative_weight"]:
        raise DataError(
            f"weight '{column}' is negative in {result['negative_weight']} of {result['rows']} "
            f"rows, 0 or more was expected; drop those rows or mend them"
        )
    if result["weight_max"] == 0:
        raise DataError(
            f"weight '{column}' is 0 in every training row: nothing can be learnt; check the column"
        )
