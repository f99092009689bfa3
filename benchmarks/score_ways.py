"""Ways from raw rows to written scores: our job, and what is glued together without it.

All score with the same sizes: fields of strings, K factors, one hidden layer. Weights are random,
for speed does not depend on them.
"""

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import FMClassifier
from pyspark.ml.feature import OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.ml.functions import predict_batch_udf, vector_to_array
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from torch import nn

from benchmarks.workload import EXPONENT
from conf.cells import count_cells
from conf.manifest import read_manifest
from conf.schema import Config
from feature_eng.build import build_features
from jobs import score
from nfm.bundle import write_bundle
from nfm.calibration import ScoreReference
from nfm.collectives import Alone
from nfm.models import build_model

DS = "2026-01-02"
FACTORS, HIDDEN = 64, 64
_DEMO = Path(__file__).parents[1] / "conf/movielens100k.yaml"
_FIT_ROWS = 20_000  # of MLlib's FM, whose weights do not matter either

Way = Callable[[], None]


def configuration(root: Path, columns: Sequence[str]) -> Config:
    """Of our job, all of whose paths are below ``root``."""
    config = yaml.safe_load(_DEMO.read_text()) | {
        "raw": {"path": f"{root}/raw"},
        "keys": ["row"],
        "label": {"column": "label"},
        "fields": [{"name": column, "kind": "categorical"} for column in columns],
        "features": {"path": f"{root}/features"},
        "model": {"name": "nfm", "embedding_dim": FACTORS, "hidden": [HIDDEN]},
        "evaluate": {"path": f"{root}/reports"},
        "score": {"raw": {"path": f"{root}/raw"}, "path": f"{root}/scores"},
    }
    config["train"] |= {"path": f"{root}/models", "work_path": f"{root}/work"}
    return Config.model_validate(config)


def make_bundle(spark: SparkSession, config: Config) -> None:
    """Features of the raw table, and a bundle of random weights for them."""
    build_features(spark, config, overwrite=True)
    manifest = read_manifest(config.features.path)
    torch.manual_seed(0)
    model = build_model(config.model, manifest.fields, Alone())
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    weights["table.weight"] = torch.randn(manifest.num_features, FACTORS + 1) * 0.1
    shutil.rmtree(config.train.path, ignore_errors=True)
    scores = ScoreReference(count_cells(np.linspace(0.0, 1.0, 1000)), None, None)
    write_bundle(f"{config.train.path}/random", config, manifest, weights, {}, scores)


def ours(config: Config) -> None:
    """All that ``jobs.score`` does, but for the start of Spark."""
    score.run(config, score.arguments().parse_args(["--config", "", "--ds", DS]))


class PlainModule(nn.Module):
    """The same model of torch's own layers: ids [n, F] of all fields' values to scores [n]."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_features, FACTORS)
        self.linear = nn.Embedding(num_features, 1)
        self.deep = nn.Sequential(
            nn.BatchNorm1d(FACTORS),
            nn.Linear(FACTORS, HIDDEN, bias=False),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 1),
        )

    def forward(self, ids_nF: torch.Tensor) -> torch.Tensor:
        """He & Chua 2017, eq. 2 to 7."""
        v_nFK = self.embedding(ids_nF)
        pooled_nK = 0.5 * (v_nFK.sum(1).square() - v_nFK.square().sum(1))
        return torch.sigmoid(self.linear(ids_nF).sum(1) + self.deep(pooled_nK))[:, 0]


def bare_forward(cardinalities: Sequence[int], rows: int, batch_rows: int) -> Way:
    """The forward pass alone, over ids that lie in memory."""
    rng, offsets = np.random.default_rng(0), np.cumsum([0, *cardinalities[:-1]])
    columns = [
        _zipf(rng, size, rows) + start for size, start in zip(cardinalities, offsets, strict=True)
    ]
    ids_nF = torch.from_numpy(np.stack(columns, axis=1))
    model = PlainModule(sum(cardinalities)).eval()

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, rows, batch_rows):
                model(ids_nF[start : start + batch_rows])

    return run


def _zipf(rng: np.random.Generator, size: int, rows: int) -> npt.NDArray[np.int64]:
    weights = np.arange(1, size + 1) ** -EXPONENT
    found = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(rows))
    return np.minimum(found, size - 1)


def batch_udf(spark: SparkSession, raw: Path, columns: Sequence[str], out: Path) -> Way:
    """StringIndexer, ``predict_batch_udf`` with the plain module, Parquet."""
    ids = [f"{column}_id" for column in columns]
    indexer = StringIndexer(inputCols=list(columns), outputCols=ids, handleInvalid="keep")
    fitted = indexer.fit(spark.read.parquet(str(raw)))
    sizes = [len(labels) + 1 for labels in fitted.labelsArray]
    offsets = np.cumsum([0, *sizes[:-1]]).tolist()
    weights = out.with_suffix(".pt")
    torch.save(PlainModule(sum(sizes)).state_dict(), weights)
    predict = predict_batch_udf(
        functools.partial(_load_plain, str(weights), sum(sizes)),
        return_type=T.FloatType(),
        batch_size=4096,
        input_tensor_shapes=[[len(columns)]],
    )

    def run() -> None:
        rows = fitted.transform(_rows_of_day(spark, raw))
        shifted = [
            F.col(name).cast("long") + offset for name, offset in zip(ids, offsets, strict=True)
        ]
        scored = rows.select("row", predict(F.array(*shifted)).alias("score"))
        _write(scored, out)

    return run


def _load_plain(weights: str, num_features: int) -> Callable[[Any], Any]:
    torch.set_num_threads(1)
    model = PlainModule(num_features)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()

    def predict(ids_nF: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            scores: npt.NDArray[np.float32] = model(torch.from_numpy(ids_nF).long()).numpy()
        return scores

    return predict


def mllib(spark: SparkSession, raw: Path, columns: Sequence[str], out: Path) -> Way:
    """MLlib's own Factorization Machine behind StringIndexer and OneHotEncoder, Parquet.

    In a session of its own: its functions take the session along, which cannot travel once
    something was observed in it.
    """
    spark = spark.newSession()
    ids, vectors = ([f"{column}_{kind}" for column in columns] for kind in ("id", "vector"))
    encode = Pipeline(
        stages=[
            StringIndexer(inputCols=list(columns), outputCols=ids, handleInvalid="keep"),
            OneHotEncoder(inputCols=ids, outputCols=vectors, handleInvalid="keep"),
            VectorAssembler(inputCols=vectors, outputCol="features"),
        ]
    )
    rows = spark.read.parquet(str(raw))
    encoder = encode.fit(rows)
    machine = FMClassifier(
        featuresCol="features", labelCol="label", factorSize=FACTORS, maxIter=1, solver="gd"
    ).fit(encoder.transform(rows.limit(_FIT_ROWS)))
    fitted = PipelineModel([encoder, machine])

    def run() -> None:
        scored = fitted.transform(_rows_of_day(spark, raw))
        _write(scored.select("row", vector_to_array("probability")[1].alias("score")), out)

    return run


def _rows_of_day(spark: SparkSession, raw: Path) -> DataFrame:
    return spark.read.parquet(str(raw)).where(F.col("ds") == DS)


def _write(scored: DataFrame, out: Path) -> None:
    scored.write.mode("overwrite").option("compression", "zstd").parquet(str(out))
