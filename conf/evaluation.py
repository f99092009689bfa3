"""The configuration of the evaluation, and which metrics there are for a task and a loss."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from conf.section import Section

Metric = Literal["auc", "gauc", "pr_auc", "logloss", "normalised_entropy", "ece", "rmse"]
HIGHER_IS_BETTER: dict[Metric, bool] = {
    "auc": True,
    "gauc": True,
    "pr_auc": True,
    "logloss": False,
    "normalised_entropy": False,
    "ece": False,
    "rmse": False,
}
_OF_CLASSES = {"auc", "gauc", "pr_auc"}
_OF_PROBABILITIES = {"logloss", "normalised_entropy", "ece"}
_OF_ONE_VALUE = ("categorical", "hashed", "bucketised")


class EvaluateConfig(Section):
    """What a bundle is judged by (docs/metrics.md)."""

    path: str = Field(description="Directory of the reports.")
    split: Literal["train", "valid", "test"] = Field("test", description="Rows to judge on.")
    group_by: str | None = Field(
        None,
        description="Field of one value per row, such as the user, within whose values GAUC ranks; "
        "also in the validation of a training.",
    )
    segments: list[str] = Field(
        [],
        description="Fields for whose values the report has a table each: a number's by tenths of "
        "the rows; a row counts for each value of a list.",
    )

    @property
    def grouping(self) -> list[str]:
        """The fields whose ids the evaluation counts rows by, each once."""
        return list(dict.fromkeys([*([self.group_by] if self.group_by else []), *self.segments]))


def metrics_of(task: str, loss: str, *, grouped: bool) -> list[Metric]:
    """The metrics that may decide when a training stops, and which model serves.

    Args:
        task: binary or regression.
        loss: logistic or squared: only the former makes probabilities.
        grouped: Whether there is a field to group by.
    """
    missing: set[str] = set()
    if task != "binary":
        missing |= _OF_CLASSES
    if loss != "logistic":
        missing |= _OF_PROBABILITIES
    if not grouped:
        missing.add("gauc")
    return [metric for metric in HIGHER_IS_BETTER if metric not in missing]


def check_evaluation(
    task: str,
    loss: str,
    metrics: Mapping[str, Metric],
    evaluate: EvaluateConfig,
    fields: Iterable[Any],
) -> None:
    """See that what a run is judged by exists; ``metrics`` are those that decide, by their keys.

    Raises:
        ValueError: It does not.
    """
    if task == "regression" and loss == "logistic":
        raise ValueError("train.loss: a regression has the squared loss; leave it out")
    if task == "regression" and evaluate.group_by:
        raise ValueError("evaluate.group_by: GAUC goes with task: binary")
    check_grouping(evaluate, fields)
    known = metrics_of(task, loss, grouped=evaluate.group_by is not None)
    for key, metric in metrics.items():
        if metric == "gauc" and task == "binary" and metric not in known:
            raise ValueError(f"{key}: gauc needs evaluate.group_by")
        if metric not in known:
            raise ValueError(
                f"{key}: there is no {metric} for task {task} with {loss} loss, "
                f"but {', '.join(known)}"
            )


def check_grouping(evaluate: EvaluateConfig, fields: Iterable[Any]) -> None:
    """See that rows can be grouped by fields, for GAUC by one that has one value per row.

    Args:
        evaluate: Names the fields.
        fields: All fields, as they are configured or as the manifest has them.

    Raises:
        ValueError: A field is not there, or GAUC's is a number or a list.
    """
    kinds = {field.name: field.kind for field in fields}
    for name in evaluate.grouping:
        if name not in kinds:
            raise ValueError(f"evaluate: no field '{name}' to group by, but {', '.join(kinds)}")
    key = evaluate.group_by
    if key and kinds[key] not in _OF_ONE_VALUE:
        raise ValueError(
            f"evaluate.group_by: field '{key}' is {kinds[key]}; GAUC ranks within the values of a "
            f"field that is {', '.join(_OF_ONE_VALUE)}"
        )
