"""FuxiCTR's NFM: its base class, layers and training step.

Its package holds no models (they are a folder of its repository), so the class is put together
here from the layers it names. It offers batch norm and dropout on hidden layers alone.
"""

import itertools
import logging
import os

import torch

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import (
    FeatureEmbedding,
    InnerProductInteraction,
    LogisticRegression,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel

from benchmarks import settings
from benchmarks.contest import serve
from benchmarks.task import Task, parse
from benchmarks.workload import batches

_OPTIMIZERS = {"adagrad": "Adagrad", "adam": "Adam"}


class NFM(BaseModel):
    """Linear part and MLP over Bi-Interaction, of FuxiCTR's layers."""

    def __init__(self, feature_map: FeatureMap, factors: int, optimizer: str) -> None:
        super().__init__(feature_map, model_root="", metrics=[], verbose=0)
        self.linear = LogisticRegression(feature_map, use_bias=False)
        self.embedding = FeatureEmbedding(feature_map, factors)
        self.pooling = InnerProductInteraction(feature_map.num_fields, output="bi_interaction")
        self.deep = MLP_Block(
            factors,
            [settings.HIDDEN],
            output_dim=1,
            dropout_rates=settings.DROPOUT,
            batch_norm=True,
        )
        self.compile(_OPTIMIZERS[optimizer], "binary_crossentropy", settings.LEARNING_RATE)
        self.reset_parameters()
        self._max_gradient_norm = 10.0  # the default of fit

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Probabilities [B, 1], under the name its loss looks for."""
        x = self.get_inputs(inputs)
        logits = self.linear(x) + self.deep(self.pooling(self.embedding(x)))
        return {"y_pred": self.output_activation(logits)}


def feature_map(task: Task) -> FeatureMap:
    """All fields as categorical ones."""
    fields = FeatureMap("bench", "")
    for field, size in enumerate(task.shape.cardinalities):
        fields.features[f"f{field}"] = {"source": "", "type": "categorical", "vocab_size": size}
    fields.labels = ["label"]
    fields.num_fields = fields.get_num_fields()
    fields.set_column_index()
    return fields


def in_memory(task: Task) -> None:
    """Serve training steps."""
    model, rows = NFM(feature_map(task), task.shape.factors, task.optimizer), task.rows()
    columns = torch.from_numpy(rows.ids_BF.T.copy())
    label = torch.from_numpy(rows.label_B)
    cuts = itertools.cycle(batches(rows, task.batch))
    model.train()

    def step() -> int:
        cut = next(cuts)
        batch = {f"f{field}": column[cut] for field, column in enumerate(columns)}
        model.train_step(batch | {"label": label[cut]}).item()
        return task.batch

    serve(step)


def from_parquet(task: Task) -> None:
    """Serve whole passes over the files: its loader (Ray Data) feeds its ``train_epoch``."""
    fields = feature_map(task)
    model = NFM(fields, task.shape.factors, task.optimizer)
    loader, _ = RankDataLoader(
        fields,
        stage="train",
        train_data=str(task.data),
        batch_size=task.batch,
        shuffle=True,
        data_format="parquet",
    )
    model._total_steps, model._eval_steps, model._stop_training = 0, 1 << 60, False

    def step() -> int:
        model.train_epoch(loader)
        return int(loader.num_samples)

    serve(step, warm_up=0)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    task = parse()
    torch.set_num_threads(task.threads)
    (from_parquet if task.data.is_dir() else in_memory)(task)
