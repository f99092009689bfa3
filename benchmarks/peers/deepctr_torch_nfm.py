"""DeepCTR-Torch's NFM, compiled with its own names of an optimiser and a loss.

Its NFM offers no batch norm. Variants: "step" is the body of the loop in its ``BaseModel.fit``,
without the ``DataLoader`` that feeds it, "fit" is the whole of it on arrays in memory, and
"unpenalised" is "step" without the L2 penalties that it has by default.
"""

import itertools
import sys
import types

import numpy as np
import torch

# It asks PyPI for a newer version of itself at every import, and for nothing else.
sys.modules["requests"] = types.ModuleType("requests")

from deepctr_torch.inputs import SparseFeat  # noqa: E402
from deepctr_torch.models import NFM  # noqa: E402

from benchmarks import settings  # noqa: E402
from benchmarks.contest import serve  # noqa: E402
from benchmarks.task import Task, parse  # noqa: E402
from benchmarks.workload import batches  # noqa: E402

_BATCHES_PER_FIT = 4


def build(task: Task) -> NFM:
    """Its model, compiled."""
    torch.set_num_threads(task.threads)
    columns = [
        SparseFeat(f"f{field}", size, embedding_dim=task.shape.factors)
        for field, size in enumerate(task.shape.cardinalities)
    ]
    model = NFM(
        columns,
        columns,
        dnn_hidden_units=(settings.HIDDEN,),
        bi_dropout=settings.DROPOUT,
        dnn_dropout=settings.DROPOUT,
        **{"l2_reg_embedding": 0, "l2_reg_linear": 0} if task.variant == "unpenalised" else {},
    )
    model.compile(task.optimizer, "binary_crossentropy")
    return model


def in_memory(task: Task) -> None:
    """Serve training steps."""
    model, rows = build(task).train(), task.rows()
    x_all, y_all = torch.from_numpy(rows.ids_BF), torch.from_numpy(rows.label_B)
    cuts = itertools.cycle(batches(rows, task.batch))

    def step() -> int:
        cut = next(cuts)
        x, y = x_all[cut].float(), y_all[cut].float()
        y_pred = model(x).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(y_pred, y, reduction="sum")
        total_loss = loss + model.get_regularization_loss() + model.aux_loss
        loss.item()
        total_loss.item()
        total_loss.backward()
        model.optim.step()
        return task.batch

    serve(step)


def fit_in_memory(task: Task) -> None:
    """Serve calls of ``fit``, each on the next rows."""
    model, rows = build(task), task.rows()
    taken = _BATCHES_PER_FIT * task.batch
    cuts = itertools.cycle(batches(rows, taken))

    def step() -> int:
        cut = next(cuts)
        x = {f"f{field}": ids for field, ids in enumerate(rows.ids_BF[cut].T)}
        model.fit(x, rows.label_B[cut], batch_size=task.batch, epochs=1, verbose=0)
        return taken

    serve(step, warm_up=1)


def from_parquet(task: Task) -> None:
    """Serve whole passes over the files: pandas reads them, ``fit`` feeds and trains."""
    import pandas as pd

    model = build(task)

    def step() -> int:
        frame = pd.read_parquet(task.data)
        x = {f"f{field}": frame[f"f{field}"].to_numpy() for field in range(frame.shape[1] - 1)}
        y = frame["label"].to_numpy(np.float32)
        model.fit(x, y, batch_size=task.batch, epochs=1, verbose=0)
        return len(frame)

    serve(step, warm_up=0)


if __name__ == "__main__":
    task = parse()
    if task.data.is_dir():
        from_parquet(task)
    elif task.variant == "fit":
        fit_in_memory(task)
    else:
        in_memory(task)
