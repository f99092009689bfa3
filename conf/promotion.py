"""The configuration of what may serve, and of the nightly run that trains, promotes and scores."""

from typing import Annotated

from pydantic import Field

from conf.evaluation import Metric
from conf.section import Positive, Section


class PromoteConfig(Section):
    """The gate before a model serves: candidate and serving model, judged on the same rows."""

    metric: Metric | None = Field(
        None,
        description="What both are judged by, on the rows of evaluate.split (docs/metrics.md); "
        "default: that of train.early_stopping.",
    )
    tolerance: Annotated[float, Field(ge=0.0)] = Field(
        0.002, description="By how much the candidate may be worse than the model that serves."
    )
    bar: float | None = Field(
        None,
        description="What the candidate must reach, whatever serves: at least it where a greater "
        "value is better, else at most.",
    )


class NightlyConfig(Section):
    """What jobs/airflow/nfm_nightly.py runs, and when (docs/nightly.md)."""

    schedule: str = Field(
        description="Cron expression in UTC; a run is for the day on which its interval began, "
        "such as yesterday for '0 3 * * *'."
    )
    start: str = Field(
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="First day; days from then on that have had no run are scored later.",
    )
    train_every_days: Positive = Field(
        description="Age of the newest bundle from which on a training is due."
    )
    days: Positive | None = Field(
        None,
        description="Days of raw rows that features are built from, the run's day the last; "
        "default: all rows.",
    )
    base: str | None = Field(
        None,
        description="What the vocabulary of the features grows from, as build_features --base "
        "takes it; serving: the model that serves, once there is one.",
    )
    task_hours: Positive | None = Field(
        None,
        description="Hours that a task may take before it is stopped and tried again; default: 24.",
    )
