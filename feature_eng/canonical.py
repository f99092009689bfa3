"""The raw table's rows in canonical columns (see ``feature_eng.raw``), negatives among them."""

from collections.abc import Collection

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.fields import LABEL
from conf.schema import Config, RandomSplit
from feature_eng.checks import checked_columns
from feature_eng.fields import unfitted_specs
from feature_eng.negatives import DRAWN, with_negatives
from feature_eng.parquet_texts import place_columns
from feature_eng.raw import (
    ORDER,
    day_column,
    field_column,
    key_columns,
    label_column,
    named_column,
    weight_column,
)
from feature_eng.split import TRAIN, hashed_keys, key_hash, split_column


def canonical_rows(raw: DataFrame, config: Config, texts: Collection[str] = ()) -> DataFrame:
    """Label, weight, fields, keys, split, day and hash of the keys of every row, raw or drawn.

    There is no day where the table has none.

    Args:
        raw: The raw table.
        config: The run.
        texts: Fields that workers read by themselves: each row's place in a file stands for them.

    Raises:
        DataError: A configured column is missing or of the wrong type, or negatives cannot be
            drawn.
    """
    label, keys = label_column(raw, config.label), key_columns(raw, config.keys)
    weights = [weight_column(raw, config.weight)] if config.weight else []
    specs = unfitted_specs(config.fields)
    columns = [field_column(raw, spec) for spec in specs if spec.name not in texts]
    columns += place_columns(raw) if texts else []
    hashed = hashed_keys(raw, config.keys, "keys")
    split = split_column(raw, hashed, config.split)
    day = [day_column(raw, config.raw)] if config.raw.ds_column in raw.columns else []
    if config.negatives is not None:
        raw = with_negatives(
            raw,
            config.negatives,
            keys=hashed,
            positive=label == 1,
            train=split == TRAIN,
            apart=not isinstance(config.split, RandomSplit),
        )
        label = F.when(F.col(DRAWN), 0.0).otherwise(label).alias(LABEL)
    is_raw = ~F.col(DRAWN) if config.negatives else F.lit(True)
    checked = checked_columns(raw, config.checks.columns, is_raw)
    # A hash passes over nulls: that they are is hashed as well.
    named = [named_column(raw, key, "keys") for key in config.keys]
    order = key_hash([*named, *(key.isNull() for key in named)], config.features.seed)
    return raw.select(label, *weights, *columns, keys, split, *day, order.alias(ORDER), *checked)
