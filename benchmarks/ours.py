"""Our trainer as a contestant: the step on rows in memory, or passes over Parquet files.

In memory every step gets a new batch, so finding its distinct ids counts into it, on the step's own
threads; in a training the stream's thread does that ahead of the step, as the variant "grouped".
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import settings
from benchmarks.contest import serve
from benchmarks.task import Task, parse
from benchmarks.workload import Rows, Shape, batches
from conf.fields import LABEL
from conf.manifest import FieldSpec
from conf.schema import Config
from nfm.batch import Batch
from nfm.collectives import Alone
from nfm.epoch_plan import plan_epoch
from nfm.step import build_step
from nfm.stream import stream_batches

SHUFFLE_ROWS = 200_000


def run_config(task: Task, placement: str = "auto", batch_norm: str = "synchronised") -> Config:
    """The configuration of the run that a task is a part of."""
    names = [f"f{field}" for field in range(len(task.shape.cardinalities))]
    return Config.model_validate(
        {
            "name": "bench",
            "task": "binary",
            "raw": {"path": "-"},
            "keys": ["row"],
            "label": {"column": LABEL},
            "fields": [{"name": name, "kind": "categorical"} for name in names],
            "split": {"kind": "random"},
            "features": {"path": "-"},
            "model": {
                "embedding_dim": task.shape.factors,
                "embedding_std": settings.EMBEDDING_STD,
                "hidden": [settings.HIDDEN],
                "bi_dropout": settings.DROPOUT,
                "dropout": settings.DROPOUT,
                "batch_norm": batch_norm,
            },
            "train": {
                "path": "-",
                "work_path": "-",
                "placement": placement,
                "batch_size": task.batch,
                "shuffle_rows": SHUFFLE_ROWS,
                "optimizer": {"name": task.optimizer, "learning_rate": settings.LEARNING_RATE},
                "early_stopping": {"metric": "logloss"},
            },
            "evaluate": {"path": "-"},
            "score": {"raw": {"path": "-"}, "path": "-"},
        }
    )


def batches_in_memory(task: Task, rows: Rows) -> Iterator[Batch]:
    """Batches of the rows, for ever; new ones, of whose ids nothing is known, or grouped ones."""
    ids = torch.from_numpy(rows.ids_BF + task.shape.offsets)
    x, label = torch.ones(ids.shape), torch.from_numpy(rows.label_B)
    cuts = batches(rows, task.batch)
    if task.variant == "grouped":
        ready = [Batch(ids[cut], x[cut], label[cut]) for cut in cuts]
        for batch in ready:
            batch.groups  # noqa: B018  (found at the first use, and kept)
        return itertools.cycle(ready)
    return (Batch(ids[cut], x[cut], label[cut]) for cut in itertools.cycle(cuts))


def field_specs(shape: Shape) -> list[FieldSpec]:
    """The fields as a manifest describes them."""
    return [
        FieldSpec(
            name=f"f{field}",
            kind="categorical",
            source=f"f{field}",
            is_expr=False,
            cardinality=size,
            offset=int(offset),
            length=1,
        )
        for field, (size, offset) in enumerate(zip(shape.cardinalities, shape.offsets, strict=True))
    ]


def write_parquet(folder: Path, rows: Rows, files: int) -> None:
    """Write rows as the features of a training: local ids, one row group per file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        columns = {f"f{field}": ids for field, ids in enumerate(rows.ids_BF[part].T)}
        table = pa.table(columns | {LABEL: rows.label_B[part]})
        path = folder / f"part-{number:05}.parquet"
        pq.write_table(table, path, row_group_size=len(part), compression="zstd")


def in_memory(task: Task) -> None:
    """Serve training steps."""
    train = build_step(run_config(task), field_specs(task.shape), Alone())
    source = batches_in_memory(task, task.rows())

    def step() -> int:
        batch = next(source)
        train(batch, len(batch))
        return len(batch)

    serve(step)


def from_parquet(task: Task) -> None:
    """Serve epochs: plan, Petastorm, shuffle, step; files are opened anew for each."""
    config = run_config(task)
    train = build_step(config, field_specs(task.shape), Alone())
    paths = [str(path) for path in sorted(task.data.glob("*.parquet"))]
    file_rows = [pq.read_metadata(path).num_rows for path in paths]
    fields, epochs = field_specs(task.shape), itertools.count()

    def epoch() -> int:
        plan = plan_epoch(
            file_rows,
            world_size=1,
            batch_size=task.batch,
            seed=0,
            epoch=next(epochs),
            shuffle_rows=SHUFFLE_ROWS,
        )
        read = stream_batches(
            plan.blocks[0], paths, fields, batch_rows=plan.batch_rows[0], group_for=1
        )
        for batch in read:
            train(batch, len(batch))
        return sum(file_rows)

    serve(epoch, warm_up=1)


if __name__ == "__main__":
    task = parse()
    torch.set_num_threads(task.threads)
    (from_parquet if task.data.is_dir() else in_memory)(task)
