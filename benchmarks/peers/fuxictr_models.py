"""The models of ``make reproduce``, of FuxiCTR's layers, trained by its ``fit`` on the same rows.

    python -m benchmarks.peers.fuxictr_models DIRECTORY [DIRECTORY OF A TRAINED FM]

DIRECTORY holds ``settings.json``: the sections features, model and train of one of our trainings.
There ``fit`` keeps the weights of the best epoch, and ``result.json`` has its metric.

The models are those of FuxiCTR's repository (its package has none, and its repository no FNN), so
they differ from ours where those do: docs/results.md says in what. Hyperparameters that they have
no place for are left out.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import (
    FeatureEmbedding,
    InnerProductInteraction,
    LogisticRegression,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

# Its name of our metric, and in which direction it gets better.
_MONITORS = {"auc": ("AUC", "max"), "rmse": ("rmse", "min")}
_ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "sigmoid": "Sigmoid"}
_WEIGHTS = "best"


class ResidualBlock(nn.Module):
    """As in its DeepCrossing: batch norm and dropout follow the sum, not the inner layer."""

    def __init__(self, width: int, inner: int, dropout: float, model: dict[str, Any]) -> None:
        super().__init__()
        activation = _ACTIVATIONS[model["activation"]]
        self.layers = MLP_Block(width, [inner], activation, output_dim=width)
        norm = nn.Identity() if model["batch_norm"] == "none" else nn.BatchNorm1d(width)
        self.after = nn.Sequential(norm, getattr(nn, activation)(), nn.Dropout(dropout))

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        """Apply the block; the width stays."""
        return self.after(x_BC + self.layers(x_BC))


class Model(BaseModel):
    """Any of the six, by ``model.name``.

    Args:
        fields: What the rows consist of.
        settings: The sections of our training.
        place: Directory for the weights.
        penalty: Its L2 on all embeddings.
    """

    def __init__(
        self, fields: FeatureMap, settings: dict[str, Any], place: Path, penalty: float
    ) -> None:
        model, train = settings["model"], settings["train"]
        squared = train["loss"] == "squared"
        monitor, mode = _MONITORS[train["early_stopping"]["metric"]]
        super().__init__(
            fields,
            model_id=_WEIGHTS,
            model_root=str(place),
            metrics=[monitor],
            monitor=monitor,
            monitor_mode=mode,
            task="regression" if squared else "binary_classification",
            early_stop_patience=train["early_stopping"]["patience"],
            embedding_regularizer=penalty,
            net_regularizer=train["l2"]["dense"],
            reduce_lr_on_plateau=False,  # ours does not
            verbose=0,
        )
        self.name = model["name"]
        if self.name != "deep_cross":
            self.linear = LogisticRegression(fields)
        if self.name != "lr":
            self.embedding = FeatureEmbedding(
                fields,
                model["embedding_dim"],
                f"partial(nn.init.normal_, std={model['embedding_std']})",
            )
        self._add_layers(model)
        rule = train["optimizer"]
        loss = "mse_loss" if squared else "binary_crossentropy"
        self.compile(rule["name"].capitalize(), loss, rule["learning_rate"])
        self.reset_parameters()
        if rule["name"] == "adagrad":
            for state in self.optimizer.state.values():
                state["sum"].fill_(rule["initial_accumulator"])

    def _add_layers(self, model: dict[str, Any]) -> None:
        factors, fields = model["embedding_dim"], self.feature_map.num_fields
        hidden, dropout = model["hidden"], model["dropout"]
        dropouts = dropout if isinstance(dropout, list) else [dropout] * len(hidden)
        if self.name in ("fm", "nfm"):
            output = "product_sum" if self.name == "fm" else "bi_interaction"
            self.pooling = InnerProductInteraction(fields, output)
        if self.name == "deep_cross":
            width = fields * factors
            sizes = zip(hidden, dropouts, strict=True)
            blocks = [ResidualBlock(width, *size, model) for size in sizes]
            self.deep = nn.Sequential(*blocks, nn.Linear(width, 1))
        elif self.name in ("nfm", "wide_deep", "fnn"):
            inputs = {"nfm": factors, "wide_deep": fields * factors, "fnn": fields * (factors + 1)}
            self.deep = MLP_Block(
                inputs[self.name],
                hidden,
                _ACTIVATIONS[model["activation"]],
                output_dim=1,
                dropout_rates=dropouts,
                batch_norm=model["batch_norm"] != "none",
            )

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Predictions [B, 1], under the name that its loss looks for."""
        return {"y_pred": self.output_activation(self._output(self.get_inputs(inputs)))}

    def _output(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.name == "lr":
            return self.linear(x)
        embeddings_BFK = self.embedding(x)
        if self.name == "fm":
            return self.linear(x) + self.pooling(embeddings_BFK)
        if self.name == "nfm":
            return self.linear(x) + self.deep(self.pooling(embeddings_BFK))
        if self.name == "wide_deep":
            return self.linear(x) + self.deep(embeddings_BFK.flatten(start_dim=1))
        if self.name == "fnn":
            weights_BF1 = self.linear.embedding_layer(x)
            both_BFD = torch.cat([embeddings_BFK, weights_BF1], dim=-1)
            return self.linear.bias + self.deep(both_BFD.flatten(start_dim=1))
        return self.deep(embeddings_BFK.flatten(start_dim=1))

    def evaluate_metrics(
        self, y_true: np.ndarray, y_pred: np.ndarray, metrics: list[str], group_id: Any = None
    ) -> dict[str, float]:
        """Its metrics, and RMSE with predictions clipped to the labels' range, which it lacks."""
        if metrics == ["rmse"]:
            return {"rmse": float(np.sqrt(np.mean((y_pred.clip(-1, 1) - y_true) ** 2)))}
        return super().evaluate_metrics(y_true, y_pred, metrics, group_id)


class Rows:
    """A split's rows in memory, as the batches that ``fit`` and ``evaluate`` iterate over.

    Args:
        features: Directory of the features.
        manifest: Of them.
        split: Its name.
        train: The section of our training.
    """

    def __init__(
        self, features: Path, manifest: dict[str, Any], split: str, train: dict[str, Any]
    ) -> None:
        files = [features / file["path"] for file in manifest["splits"][split]["files"]]
        table = pq.read_table(files)
        self.columns = {field["name"]: _ids(table, field) for field in manifest["fields"]}
        label = torch.from_numpy(table["label"].to_numpy().astype(np.float32))
        self.columns["label"] = 2 * label - 1 if train["loss"] == "squared" else label
        self.rows, self.batch, self.shuffled = len(label), train["batch_size"], split == "train"

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        order = torch.randperm(self.rows) if self.shuffled else torch.arange(self.rows)
        for cut in order.split(self.batch):
            yield {name: column[cut] for name, column in self.columns.items()}


def _ids(table: Any, field: dict[str, Any]) -> torch.Tensor:
    """Local ids [n], or [n, length] from 1 on, since its padding is 0 and ours -1."""
    column = table[field["name"]].combine_chunks()
    if field["kind"] != "multi_valued":
        return torch.from_numpy(column.to_numpy().astype(np.int64))
    values = column.flatten().to_numpy().reshape(len(column), field["length"])
    return torch.from_numpy(values.astype(np.int64) + 1)


def feature_map(manifest: dict[str, Any]) -> FeatureMap:
    """All fields as categorical ones, but lists as sequences whose mean is taken."""
    fields = FeatureMap("", "")
    for field in manifest["fields"]:
        size = field["cardinality"]
        feature = {"source": "", "type": "categorical", "vocab_size": size}
        if field["kind"] == "multi_valued":
            feature |= {"type": "sequence", "vocab_size": size + 1, "padding_idx": 0}
            feature |= {"max_len": field["length"]}
            feature |= {"feature_encoder": "layers.MaskedAveragePooling()"}
        fields.features[field["name"]] = feature
    fields.labels = ["label"]
    fields.num_fields = fields.get_num_fields()
    fields.set_column_index()
    return fields


def main(place: Path, pretrained: Path | None = None) -> None:
    """Train, and write down what it came to."""
    settings = json.loads((place / "settings.json").read_text())
    train, features = settings["train"], Path(settings["features"]["path"])
    manifest = json.loads((features / "manifest.json").read_text())
    rows = {split: Rows(features, manifest, split, train) for split in manifest["splits"]}
    torch.set_num_threads(train["threads_per_worker"])
    seed_everything(train["seed"])
    # Its penalty is on all features in each step, ours on those that a row holds.
    share = len(manifest["fields"]) / manifest["num_features"]
    strength = "linear" if settings["model"]["name"] == "lr" else "embedding"
    penalty = train["l2"][strength] * share
    model = Model(feature_map(manifest), settings, place, penalty)
    if pretrained:
        weights = torch.load(pretrained / f"{_WEIGHTS}.model")
        assert not model.load_state_dict(weights, strict=False).unexpected_keys
    clip = train["optimizer"]["clip_norm"] or math.inf
    model.fit(rows["train"], train["epochs"], rows["valid"], max_gradient_norm=clip)
    (monitor,) = model.validation_metrics
    found = {split: model.evaluate(rows[split])[monitor] for split in ("valid", "test")}
    (place / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1]), *(Path(name) for name in sys.argv[2:3]))
