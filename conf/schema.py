"""The configuration of a run, as typed models with a description per key.

``python -m conf.schema`` prints the JSON schema (editors complete from it), and
``python -m conf.schema --markdown`` the reference page docs/config.md.
"""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.checks import ChecksConfig
from conf.evaluation import EvaluateConfig, check_evaluation
from conf.fields import FieldConfig, VocabularyOptions
from conf.negatives import NegativesConfig
from conf.promotion import NightlyConfig, PromoteConfig
from conf.raw import RawConfig
from conf.scoring import SCORE_COLUMNS, ScoreConfig
from conf.section import NAME, Positive, Section, Seed
from conf.training import ModelConfig, TrainConfig
from conf.tuning import TuneConfig

SPLITS = ("train", "valid", "test")
# Models whose outputs are sums over fields and pairs of fields, or are so near a row.
EXPLAINED = ("lr", "fm", "nfm")

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class LabelConfig(Section):
    """What the model predicts."""

    column: str = Field(description="Raw column of the target; numeric or boolean.")
    threshold: float | None = Field(
        None, description="If given, the label is 1 where column >= threshold, else 0."
    )


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
        description="Most rows of a file, about; a file holds one row group, and there are as many "
        "files for each of train.num_workers.",
    )
    seed: Seed = Field(0, description="Of the order of the rows.")


class SparkConfig(Section):
    """Settings of a session that a job starts itself; spark-submit's own settings win."""

    master: str = Field("local[*]", description="Master, when not run by spark-submit.")
    conf: dict[str, str] = Field({}, description="Spark properties, when not set otherwise.")


class Config(Section):
    """A run, whole."""

    preset: str | None = Field(
        None,
        description="A file of conf/presets whose values count where this one names none: "
        "nfm_paper (He & Chua 2017) or nfm_strong (where to begin with a new table). A resolved "
        "configuration has these values, and names no preset.",
    )
    name: str = Field(pattern=NAME, description="Short name of the project.")
    task: Literal["binary", "regression"] = Field(
        description="binary: label 0/1; regression: a number."
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
    tune: TuneConfig | None = Field(None, description="The search for hyperparameters.")
    evaluate: EvaluateConfig = Field(description="The evaluation.")
    promote: PromoteConfig = Field(PromoteConfig(), description="The gate before a model serves.")
    score: ScoreConfig = Field(description="The nightly batch.")
    nightly: NightlyConfig | None = Field(None, description="The run of every night.")
    spark: SparkConfig = Field(SparkConfig(), description="The Spark session.")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        # Spark does not tell User from user.
        for what, names in (("fields", [field.name for field in self.fields]), ("keys", self.keys)):
            lower = [name.lower() for name in names]
            twice = [name for name in lower if lower.count(name) > 1]
            if twice:
                raise ValueError(f"{what}: '{twice[0]}' is named twice; names must differ")
        kept = [name.lower() for name in (*self.keys, *self.score.columns)]
        taken = set(kept) & set(SCORE_COLUMNS)
        if taken:
            raise ValueError(
                f"keys, score.columns: '{taken.pop()}' is a column of the scores; rename it"
            )
        if len(set(kept)) < len(kept):
            raise ValueError("score.columns: the scores hold the keys, and each column once")
        known = {field.name for field in self.fields if isinstance(field, VocabularyOptions)}
        strangers = self.checks.max_unknown_share.keys() - known
        if strangers:
            raise ValueError(
                f"checks.max_unknown_share: no field '{min(strangers)}' has a vocabulary"
            )
        strangers = set(self.model.wide_only) - {field.name for field in self.fields}
        if strangers:
            raise ValueError(f"model.wide_only: there is no field '{min(strangers)}'")
        if self.model.name == "wide_deep" and len(set(self.model.wide_only)) == len(self.fields):
            raise ValueError("model.wide_only: names every field, and leaves the deep part none")
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
        strangers = set(self.score.optional) - {field.name for field in self.fields}
        if strangers:
            raise ValueError(f"score.optional: there is no field '{min(strangers)}'")
        if self.score.calibration != "none" and self.task != "binary":
            raise ValueError("score.calibration goes with task: binary")
        if self.score.explain and self.model.name not in EXPLAINED:
            raise ValueError(
                f"score.explain: the contributions of fields to {self.model.name} are not known, "
                f"only those to {', '.join(EXPLAINED)}"
            )
        metrics = {"train.early_stopping.metric": self.train.early_stopping.metric}
        if self.promote.metric:
            metrics["promote.metric"] = self.promote.metric
        check_evaluation(self.task, self.loss, metrics, self.evaluate, self.fields)
        return self

    @property
    def loss(self) -> str:
        """The loss of a row: the configured one, or that of the task."""
        return self.train.loss or ("logistic" if self.task == "binary" else "squared")

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
