"""The configuration of the model and of its training."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from conf.evaluation import Metric
from conf.section import Positive, Section, Seed

_HOSTS = r"^[^\s:,]+:[1-9]\d*(,[^\s:,]+:[1-9]\d*)*$"

NonNegative = Annotated[float, Field(ge=0.0)]
PositiveNumber = Annotated[float, Field(gt=0.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class ModelConfig(Section):
    """The model: one of those that He & Chua (2017) compare, and the baseline below them.

    A key that a model has no use for changes nothing, so that ``model.name`` alone tells two
    trainings apart.
    """

    # The module of nfm.models that holds it has this name.
    name: Literal["lr", "fm", "nfm", "fnn", "wide_deep", "deep_cross"] = Field(
        "nfm",
        description="lr: logistic (or linear) regression; fm: Factorization Machine; nfm: Neural "
        "Factorization Machine; fnn: FM-supported neural network, to begin from an fm's bundle by "
        "train.init_from; wide_deep: Wide & Deep; deep_cross: Deep Crossing.",
    )
    embedding_dim: Positive = Field(
        64, description="Factors K of a feature's embedding; lr has none."
    )
    embedding_std: NonNegative = Field(0.01, description="Deviation of the initial embeddings.")
    hidden: list[Positive] = Field(
        [64],
        description="Units of each hidden layer, for deep_cross the inner units of each residual "
        "unit; may be empty. lr and fm have none.",
    )
    activation: Literal["relu", "tanh", "sigmoid"] = Field(
        "relu", description="Of the hidden layers."
    )
    bi_dropout: Probability = Field(
        0.0, description="nfm: probability of dropping a pooled factor after Bi-Interaction."
    )
    dropout: Probability | list[Probability] = Field(
        0.0, description="The same, after every hidden layer; a list gives each its own."
    )
    batch_norm: Literal["synchronised", "local", "none"] = Field(
        "synchronised",
        description="Normalise every hidden layer, and the pooled vector of nfm, over the rows of "
        "all workers, over each worker's own, or not at all.",
    )
    batch_norm_momentum: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.1, description="Weight of a new batch in the running statistics."
    )
    wide_only: list[str] = Field(
        [],
        description="wide_deep: fields, such as crosses, that the linear part sees and the layers "
        "do not.",
    )

    @property
    def factors(self) -> int:
        """K of the embedding table, whose rows are one wider."""
        return 0 if self.name == "lr" else self.embedding_dim

    @property
    def dropouts(self) -> list[float]:
        """The dropout after each hidden layer."""
        if isinstance(self.dropout, list):
            return self.dropout
        return [self.dropout] * len(self.hidden)

    @model_validator(mode="after")
    def _a_dropout_per_layer(self) -> "ModelConfig":
        if len(self.dropouts) != len(self.hidden):
            raise ValueError(
                f"dropout names {len(self.dropouts)} layers, hidden has {len(self.hidden)}: give "
                f"one number for all, or one for each"
            )
        return self


class ScheduleConfig(Section):
    """How the learning rates change in a training: warm-up times decay."""

    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="Steps in which the rates rise linearly from near 0; 0 for none."
    )
    decay: Literal["none", "linear", "cosine"] = Field(
        "none", description="How they fall over all of train.epochs, wherever it is stopped."
    )
    final: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.0, description="What decay leaves of them at the end, as a share."
    )


class OptimizerConfig(Section):
    """How gradients become steps; embedding rows and dense weights follow the same rule."""

    name: Literal["sgd", "adagrad", "adam"] = Field(
        "adagrad",
        description="sgd and adam are lazy: what they keep of a row's gradients changes only when "
        "a batch holds the row, also with x = 0; empty places of a list hold that for no value.",
    )
    learning_rate: PositiveNumber = Field(0.05, description="Step size.")
    embedding_learning_rate: PositiveNumber | None = Field(
        None, description="That of the embedding table, if another."
    )
    momentum: Probability = Field(
        0.0, description="Of sgd: the share of its velocity that a weight keeps in a step."
    )
    initial_accumulator: NonNegative = Field(
        0.1, description="Adagrad's first sum of squares; larger means gentler first steps."
    )
    clip_norm: PositiveNumber | None = Field(
        None,
        description="Largest norm of a step's gradient, over all parameters, penalties included; "
        "a longer one is scaled down.",
    )
    weight_decay: NonNegative = Field(
        0.0,
        description="Share of the layers' weight matrices that a step takes away, times the "
        "learning rate; apart from the gradient, where train.l2 is a part of it.",
    )
    schedule: ScheduleConfig = Field(
        ScheduleConfig(), description="How the learning rates change in a training."
    )


class PenaltyConfig(Section):
    """Strengths per group of parameters, relative to the mean loss of a row."""

    embedding: NonNegative = Field(0.0, description="On v_i, per row that holds feature i.")
    linear: NonNegative = Field(0.0, description="On w_i, per row that holds feature i.")
    dense: NonNegative = Field(0.0, description="On the weight matrices of the layers.")


class EarlyStoppingConfig(Section):
    """When to stop; the best epoch is what the bundle holds."""

    metric: Metric = Field(
        description="Validation metric that decides (docs/metrics.md): auc, gauc and pr_auc rise, "
        "the others fall."
    )
    patience: Positive = Field(3, description="Epochs without a better value before stopping.")


class CheckpointConfig(Section):
    """What a training can go on from; written beside the steps, under train.work_path."""

    every_steps: Positive | None = Field(
        None, description="Steps between checkpoints; one is written after every epoch as well."
    )
    keep: Positive = Field(2, description="Newest ones kept, beside that of the best epoch.")


class CacheConfig(Section):
    """Local copies of the files that the workers of a machine read from a remote store."""

    path: str = Field(description="Local directory; the copies are in nfm-cache below it.")
    size_gb: PositiveNumber = Field(
        10.0,
        description="Most that the copies of a machine may take; those read longest ago go first.",
    )


class TrainConfig(Section):
    """How the model is trained."""

    path: str = Field(description="Directory of the model bundles.")
    work_path: str = Field(
        description="Directory for checkpoints, logs and TensorBoard events; shared by all hosts."
    )
    launcher: Literal["local", "hosts", "spark"] = Field(
        "local",
        description="Where workers run: on this machine, on the machines of train.hosts by ssh, "
        "or in the executors of the Spark application.",
    )
    hosts: str | None = Field(
        None,
        pattern=_HOSTS,
        description="For launcher hosts: each machine and its number of workers, a:2,b:2.",
    )
    num_workers: Positive = Field(
        2,
        description="Horovod workers; for launcher hosts the sum of theirs, for spark at most as "
        "many as the executors have room for.",
    )
    threads_per_worker: Positive | None = Field(
        None, description="Computing threads of a worker; default: the cores shared out."
    )
    init_from: str | None = Field(
        None,
        description="Bundle to begin from, an id, a path, latest, serving or candidate, as an fm "
        "for fnn or nfm: embeddings of all values that it knows are copied, and layers of the same "
        "shape.",
    )
    seed: Seed = Field(0, description="Of initial weights, dropout and the order of rows.")
    loss: Literal["logistic", "squared"] | None = Field(
        None,
        description="Of a row; default: logistic for a binary task, squared for a regression. "
        "Squared for a binary one has targets 1 and -1, as in the NFM paper, and no probabilities.",
    )
    epochs: Positive = Field(20, description="Passes over the training rows, at most.")
    batch_size: Positive = Field(4096, description="Rows of a step, over all workers together.")
    shuffle_rows: Positive = Field(
        200_000, description="Rows a worker holds to shuffle across row groups."
    )
    placement: Literal["auto", "replicated", "sharded"] = Field(
        "auto",
        description="Whether every worker holds the whole embedding table, or each a part of its "
        "rows; auto takes what moves fewer bytes and fits the memory.",
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="Of the layers' arithmetic on a GPU (autocast); a CPU has float32."
    )
    cache: CacheConfig | None = Field(None, description="Keep what is read on a local disk.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="When state is saved.")
    max_restarts: Annotated[int, Field(ge=0)] = Field(
        3, description="Times that failed workers are started again from the last checkpoint."
    )
    restart_backoff_s: NonNegative = Field(
        5.0, description="Seconds before the first restart; twice as long before each further one."
    )
    stall_timeout_s: PositiveNumber = Field(
        600.0,
        description="Seconds without a step after which the workers count as failed; a checkpoint "
        "that is being written has as many more.",
    )
    max_skipped_steps: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Steps with a loss or gradient that is not finite, left out of a training "
        "before it fails.",
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="The optimiser.")
    l1: PenaltyConfig = Field(PenaltyConfig(), description="strength * |w|.")
    l2: PenaltyConfig = Field(PenaltyConfig(), description="strength / 2 * w^2.")
    early_stopping: EarlyStoppingConfig = Field(description="When to stop.")

    @model_validator(mode="before")
    @classmethod
    def _count_workers(cls, data: Any) -> Any:
        """With hosts, their sum is the number of workers."""
        if isinstance(data, dict) and re.fullmatch(_HOSTS, str(data.get("hosts"))):
            slots = [int(host.rpartition(":")[2]) for host in data["hosts"].split(",")]
            data = {**data, "num_workers": sum(slots)}
        return data
