"""Ways from a raw table to encoded Parquet files: ours, and Spark's MLlib."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pyspark.ml import Estimator, Pipeline, Transformer
from pyspark.ml.feature import OneHotEncoder, StringIndexer
from pyspark.sql import SparkSession

from conf.schema import Config
from feature_eng.build import build_features

# What a run needs beside its raw table and fields.
_DEMO = Path(__file__).parents[1] / "conf/movielens100k.yaml"
Way = Callable[[SparkSession, Path, Sequence[str], Path], None]


def ours(spark: SparkSession, raw: Path, columns: Sequence[str], out: Path) -> None:
    """All that ``jobs.build_features`` does, into three splits with a manifest."""
    config = yaml.safe_load(_DEMO.read_text()) | {
        "raw": {"path": str(raw)},
        "keys": ["row"],
        "label": {"column": "label"},
        "fields": [{"name": column, "kind": "categorical"} for column in columns],
        "features": {"path": str(out), "row_group_rows": 100_000},
        "evaluate": {"path": f"{out}-reports"},  # by no field of the demo's
    }
    build_features(spark, Config.model_validate(config), overwrite=True)


def indexed(spark: SparkSession, raw: Path, columns: Sequence[str], out: Path) -> None:
    """StringIndexer, fitted and written: a double per column."""
    _mllib(spark, raw, columns, out, one_hot=False)


def one_hot(spark: SparkSession, raw: Path, columns: Sequence[str], out: Path) -> None:
    """StringIndexer and OneHotEncoder, fitted and written: a sparse vector per column."""
    _mllib(spark, raw, columns, out, one_hot=True)


def _mllib(
    spark: SparkSession, raw: Path, columns: Sequence[str], out: Path, *, one_hot: bool
) -> None:
    rows = spark.read.parquet(str(raw))
    ids, vectors = ([f"{column}_{kind}" for column in columns] for kind in ("id", "vector"))
    stages: list[Estimator[Any] | Transformer] = [
        StringIndexer(inputCols=list(columns), outputCols=ids, handleInvalid="keep")
    ]
    if one_hot:
        stages.append(OneHotEncoder(inputCols=ids, outputCols=vectors, handleInvalid="keep"))
    encoded = Pipeline(stages=stages).fit(rows).transform(rows)
    written = encoded.select("row", "label", *(vectors if one_hot else ids))
    shutil.rmtree(out, ignore_errors=True)
    written.write.option("compression", "zstd").parquet(str(out))


def rows_read(spark: SparkSession, raw: Path, way: Callable[[], None]) -> int:
    """Rows that all scans of a raw table put out while ``way`` runs, by Spark's own metrics.

    The session's ``spark.sql.maxMetadataStringLength`` must leave the path of a scan whole.
    """
    jvm = spark._jsparkSession
    store, bus = jvm.sharedState().statusStore(), jvm.sparkContext().listenerBus()
    before = store.executionsCount()
    way()
    bus.waitUntilEmpty()
    executions, rows = store.executionsList(), 0
    for number in range(before, executions.size()):
        execution = executions.apply(number).executionId()
        nodes = store.planGraph(execution).allNodes()
        found = store.executionMetrics(execution)
        for node in map(nodes.apply, range(nodes.size())):
            if not (node.name().startswith("Scan") and f"{raw.resolve()}]" in node.desc()):
                continue
            for metric in map(node.metrics().apply, range(node.metrics().size())):
                if metric.name() == "number of output rows":
                    value = found.get(metric.accumulatorId())
                    rows += int(value.get().replace(",", "")) if value.isDefined() else 0
    return rows


WAYS: dict[str, Way] = {"ours": ours, "StringIndexer": indexed, "OneHotEncoder": one_hot}
