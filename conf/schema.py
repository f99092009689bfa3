"""The configuration of a run, as typed models with a description per key.

``python -m conf.schema`` prints the JSON schema (editors complete from it), and
``python -m conf.schema --markdown`` the reference page docs/config.md.
"""

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from conf.checks import ChecksConfig
from conf.fields import FieldConfig, VocabularyOptions
from conf.negatives import NegativesConfig
from conf.section import NAME, Positive, Section, Seed

SCORE = "score"
# What the scores hold beside the keys and the score.
SCORE_COLUMNS = ("model_id", "scored_at", "ds")
SPLITS = ("train", "valid", "test")

_HOSTS = r"^[^\s:,]+:[1-9]\d*(,[^\s:,]+:[1-9]\d*)*$"


NonNegative = Annotated[float, Field(ge=0.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class LabelConfig(Section):
    """What the model predicts."""

    column: str = Field(description="Raw column of the target; numeric or boolean.")
    threshold: float | None = Field(
        None, description="If given, the label is 1 where column >= threshold, else 0."
    )


class RawConfig(Section):
    """A table of raw rows: files, or a table of Spark's catalog."""

    path: str | None = Field(None, description="Where the files are.")
    format: str = Field(
        "parquet", description="Of the files: parquet, csv, json, orc, or another that Spark reads."
    )
    options: dict[str, str] = Field(
        {}, description="Of Spark's reader, e.g. header: 'true' for csv."
    )
    table: str | None = Field(None, description="Name of a catalog table, instead of a path.")
    ds_column: str = Field("ds", description="Date column by which days are picked.")

    @model_validator(mode="after")
    def _files_or_table(self) -> "RawConfig":
        if (self.path is None) == (self.table is None):
            raise ValueError("give path or table, one of the two")
        if self.table is not None and (self.format != "parquet" or self.options):
            raise ValueError("format and options speak of files; a table knows its own")
        return self

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or f"table {self.table}"


class RandomSplit(Section):
    """Rows are dealt by a hash of some columns: stable under any order or partitioning."""

    kind: Literal["random"] = Field(description="By a seeded hash.")
    by: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="Raw columns that are hashed: rows that share them, such as those of a user, "
        "stay together; by default the keys.",
    )
    valid: Share = Field(0.1, description="Share of rows for validation.")
    test: Share = Field(0.1, description="Share of rows for the test.")
    seed: Seed = Field(0, description="Seed of the hash.")

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> "RandomSplit":
        if self.valid + self.test >= 1.0:
            raise ValueError("valid + test must stay below 1: no rows would be left to train on")
        return self


class TimeSplit(Section):
    """Rows before valid_from train, rows from test_from on test, those between validate."""

    kind: Literal["time"] = Field(description="By two cuts on a time column.")
    column: str = Field(description="Raw column with the time: timestamp, date, number or string.")
    valid_from: str | int | float = Field(description="First value of the validation rows.")
    test_from: str | int | float = Field(description="First value of the test rows.")


class ColumnSplit(Section):
    """The raw table says itself which rows train, validate and test."""

    kind: Literal["column"] = Field(description="As a raw column says.")
    column: str = Field(description="Raw column that holds train, valid or test.")


SplitConfig = Annotated[RandomSplit | TimeSplit | ColumnSplit, Field(discriminator="kind")]


class FeaturesConfig(Section):
    """Where the encoded data set goes and how it is cut."""

    path: str = Field(description="Directory of this version of the features, e.g. features/v1.")
    row_group_rows: Positive = Field(
        100_000,
        description="Most rows of a training file, about; a file holds one row group, and there "
        "are as many files for each of train.num_workers.",
    )
    seed: Seed = Field(0, description="Of the order of the rows.")


class ModelConfig(Section):
    """The model (He & Chua 2017)."""

    name: Literal["nfm"] = Field("nfm", description="Neural Factorization Machine.")
    embedding_dim: Positive = Field(64, description="Factors K of a feature's embedding.")
    embedding_std: NonNegative = Field(0.01, description="Deviation of the initial embeddings.")
    hidden: list[Positive] = Field([64], description="Units of each hidden layer; may be empty.")
    activation: Literal["relu", "tanh", "sigmoid"] = Field(
        "relu", description="Of the hidden layers."
    )
    bi_dropout: Probability = Field(
        0.0, description="Probability of dropping a pooled factor after Bi-Interaction."
    )
    dropout: Probability = Field(0.0, description="The same, after every hidden layer.")
    batch_norm: Literal["synchronised", "local", "none"] = Field(
        "synchronised",
        description="Normalise the pooled vector and every hidden layer over the rows of all "
        "workers, over each worker's own, or not at all.",
    )
    batch_norm_momentum: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.1, description="Weight of a new batch in the running statistics."
    )


class OptimizerConfig(Section):
    """How gradients become steps; embedding rows and dense weights follow the same rule."""

    name: Literal["adagrad", "adam"] = Field("adagrad", description="Adam is lazy on rows.")
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(0.05, description="Step size.")
    initial_accumulator: NonNegative = Field(
        0.1, description="Adagrad's first sum of squares; larger means gentler first steps."
    )


class PenaltyConfig(Section):
    """Strengths per group of parameters, relative to the mean loss of a row."""

    embedding: NonNegative = Field(0.0, description="On v_i, per row that holds feature i.")
    linear: NonNegative = Field(0.0, description="On w_i, per row that holds feature i.")
    dense: NonNegative = Field(0.0, description="On the weight matrices of the layers.")


class EarlyStoppingConfig(Section):
    """When to stop; the best epoch is what the bundle holds."""

    metric: Literal["auc", "logloss", "rmse"] = Field(
        description="Validation metric that decides; auc rises, the others fall."
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
    size_gb: Annotated[float, Field(gt=0.0)] = Field(
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
        description="Bundle to begin from, an id, a path or latest: embeddings of all values that "
        "it knows are copied, and layers of the same shape.",
    )
    seed: Seed = Field(0, description="Of initial weights, dropout and the order of rows.")
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
    stall_timeout_s: Annotated[float, Field(gt=0.0)] = Field(
        600.0, description="Seconds without a step after which the workers count as failed."
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


class EvaluateConfig(Section):
    """Which rows a bundle is judged on."""

    path: str = Field(description="Directory of the reports.")
    split: Literal["train", "valid", "test"] = Field("test", description="Rows to judge on.")


class ScoreConfig(Section):
    """The nightly batch."""

    raw: RawConfig = Field(description="The raw rows to score; --ds picks the day.")
    path: str = Field(description="The lake's table of scores, partitioned by ds.")


class SparkConfig(Section):
    """Settings of a session that a job starts itself; spark-submit's own settings win."""

    master: str = Field("local[*]", description="Master, when not run by spark-submit.")
    conf: dict[str, str] = Field({}, description="Spark properties, when not set otherwise.")


class Config(Section):
    """A run, whole."""

    name: str = Field(pattern=NAME, description="Short name of the project.")
    task: Literal["binary", "regression"] = Field(
        description="binary: label 0/1, logistic loss; regression: squared loss."
    )
    raw: RawConfig = Field(description="The table that features are built from.")
    keys: Annotated[list[str], Field(min_length=1)] = Field(
        description="Raw columns that name a row; the scores carry them."
    )
    label: LabelConfig = Field(description="What the model predicts.")
    weight: str | None = Field(
        None,
        description="Raw column with the weight of a row in the loss; a finite number of at least "
        "0. Metrics count every row once.",
    )
    fields: Annotated[list[FieldConfig], Field(min_length=1)] = Field(
        description="What the model sees."
    )
    negatives: NegativesConfig | None = Field(
        None, description="Draw rows with label 0 for those with label 1 (implicit feedback)."
    )
    split: SplitConfig = Field(description="Which rows train, validate and test.")
    checks: ChecksConfig = Field(ChecksConfig(), description="The contract of the data.")
    features: FeaturesConfig = Field(description="The encoded data set.")
    model: ModelConfig = Field(ModelConfig(), description="The model.")
    train: TrainConfig = Field(description="The training.")
    evaluate: EvaluateConfig = Field(description="The evaluation.")
    score: ScoreConfig = Field(description="The nightly batch.")
    spark: SparkConfig = Field(SparkConfig(), description="The Spark session.")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        # Spark does not tell User from user.
        for what, names in (("fields", [field.name for field in self.fields]), ("keys", self.keys)):
            lower = [name.lower() for name in names]
            twice = [name for name in lower if lower.count(name) > 1]
            if twice:
                raise ValueError(f"{what}: '{twice[0]}' is named twice; names must differ")
        taken = {name.lower() for name in self.keys} & {SCORE, *SCORE_COLUMNS}
        if taken:
            raise ValueError(f"keys: '{taken.pop()}' is a column of the scores; rename it")
        known = {field.name for field in self.fields if isinstance(field, VocabularyOptions)}
        strangers = self.checks.max_unknown_share.keys() - known
        if strangers:
            raise ValueError(
                f"checks.max_unknown_share: no field '{min(strangers)}' has a vocabulary"
            )
        if self.checks.label_rate and self.task != "binary":
            raise ValueError("checks.label_rate goes with task: binary")
        if self.train.batch_size < self.train.num_workers:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} is less than one row for each of "
                f"{self.train.num_workers} workers"
            )
        if (self.train.launcher == "hosts") != (self.train.hosts is not None):
            raise ValueError("train.hosts goes with train.launcher: hosts, and only with it")
        if self.task == "regression" and self.negatives is not None:
            raise ValueError("negatives: rows with label 0 are drawn for task binary only")
        if self.task == "regression" and self.train.early_stopping.metric != "rmse":
            raise ValueError("train.early_stopping.metric: a regression is judged by 'rmse'")
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the resolved configuration, in hex."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


if __name__ == "__main__":
    import json
    import sys

    from conf.reference import markdown

    if sys.argv[1:] == ["--markdown"]:
        print(markdown(Config), end="")
    else:
        print(json.dumps(Config.model_json_schema(), indent=2))
