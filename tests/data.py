"""A small raw table with a learnable label, and the configuration of a run on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from conf.loader import load_config
from conf.manifest import FieldSpec
from conf.schema import Config

DS = "2026-01-02"
# Every optimiser with and without state, as overrides of the configuration.
OPTIMIZERS = {
    "adagrad": ("train.optimizer.name=adagrad",),
    "adam": ("train.optimizer.name=adam",),
    "sgd": ("train.optimizer.name=sgd",),
    "momentum": ("train.optimizer.name=sgd", "train.optimizer.momentum=0.9"),
}
# JVMs of tests live for seconds, on few cores: thorough compilation, and collecting garbage on
# several threads, do not pay.
JVM_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def raw_table(rows: int, seed: int = 0) -> pa.Table:
    """Users and items with latent taste; every kind of field, and nulls in each."""
    rng = np.random.default_rng(seed)
    users, items = 40, 60
    taste, nature = rng.normal(size=(users, 2)), rng.normal(size=(items, 2))
    pair = rng.choice(users * items, size=rows, replace=rows > users * items)
    user, item = pair // items, pair % items
    logit = 2 * (taste[user, 0] + nature[item, 0] + taste[user, 1] * nature[item, 1])
    label = rng.random(rows) < 1 / (1 + np.exp(-logit))
    tags = [[f"t{t}" for t in rng.choice(6, rng.integers(0, 4), replace=False)] for _ in pair]
    price = np.where(rng.random(rows) < 0.1, None, np.round(rng.gamma(2.0, 5.0, rows), 2))
    return pa.table(
        {
            "user": [f"u{u}" for u in user],
            "item": pa.array(item, pa.int64()),
            "device": [None if d == 3 else "abc"[d] for d in rng.integers(0, 4, rows)],
            "price": pa.array(price, pa.float64()),
            "age": pa.array(rng.integers(18, 80, rows), pa.int32()),
            "tags": pa.array([t or None for t in tags], pa.list_(pa.string())),
            "clicked": pa.array(label.astype(np.int32)),
            "seen_at": pa.array(rng.integers(1_700_000_000, 1_710_000_000, rows), pa.int64()),
        }
    )


def write_raw(directory: Path, table: pa.Table, files: int = 2) -> Path:
    """Write a table as a Parquet directory of several files."""
    directory.mkdir(parents=True)
    step = -(-table.num_rows // files) or 1
    for number in range(files):
        part = table.slice(number * step, step)
        pq.write_table(part, directory / f"part-{number}.parquet")
    return directory


def settings(root: Path) -> dict[str, Any]:
    """The configuration of a run under ``root``, as plain data."""
    return {
        "name": "clicks",
        "task": "binary",
        "raw": {"path": f"{root}/raw"},
        "keys": ["user", "item"],
        "label": {"column": "clicked"},
        "fields": [
            {"name": "user", "kind": "categorical"},
            {"name": "item", "kind": "categorical", "min_count": 2},
            {"name": "device", "kind": "categorical"},
            {"name": "price", "kind": "numeric"},
            {"name": "age", "kind": "bucketised", "num_buckets": 4},
            {"name": "tags", "kind": "multi_valued", "max_length": 3},
        ],
        "split": {"kind": "random", "valid": 0.15, "test": 0.15, "seed": 3},
        "features": {"path": f"{root}/features/v1", "row_group_rows": 500},
        "model": {"name": "nfm", "embedding_dim": 8, "hidden": [16], "dropout": 0.1},
        "train": {
            "path": f"{root}/models",
            "work_path": f"{root}/work",
            "num_workers": 2,
            "threads_per_worker": 1,
            "seed": 1,
            "epochs": 6,
            "batch_size": 128,
            "optimizer": {"name": "adagrad", "learning_rate": 0.1},
            "early_stopping": {"metric": "auc", "patience": 2},
        },
        "evaluate": {"path": f"{root}/reports", "split": "test"},
        "score": {"raw": {"path": f"{root}/tonight"}, "path": f"{root}/scores"},
        "spark": {
            "master": "local[2]",
            "conf": {
                "spark.ui.enabled": "false",
                "spark.sql.shuffle.partitions": "2",
                "spark.driver.extraJavaOptions": JVM_OPTIONS,
            },
        },
    }


def plain_fields(num_features: int, *lengths: int) -> list[FieldSpec]:
    """Fields of so many values per row, the first of which has nearly all features."""
    cardinalities = [num_features - len(lengths) + 1, *[1] * (len(lengths) - 1)]
    offsets = np.cumsum([0, *cardinalities])
    return [
        FieldSpec(
            name=f"f{number}",
            kind="multi_valued" if length > 1 else "categorical",
            source=f"f{number}",
            is_expr=False,
            cardinality=cardinalities[number],
            offset=int(offsets[number]),
            length=length,
        )
        for number, length in enumerate(lengths)
    ]


def write_config(root: Path) -> Path:
    """The configuration of a run under ``root``, as the file a job reads."""
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(settings(root)))
    return path


def make_config(root: Path, *overrides: str) -> Config:
    """The configuration of a run under ``root``, validated."""
    return load_config(str(write_config(root)), overrides)
