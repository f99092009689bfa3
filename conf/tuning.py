"""The configuration of a search for hyperparameters."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from conf.section import Positive, Section, Seed

# What a trial may set: the rest of training says where it runs, or how trials are compared.
_OPEN, _CLOSED = ("model.", "train."), ("train.path", "train.work_path", "train.early_stopping")


class Dimension(Section):
    """What is tried for one key: numbers from low to high, or some values."""

    low: int | float | None = Field(
        None, description="Smallest number; whole ones are tried if low and high are whole."
    )
    high: int | float | None = Field(None, description="Largest number.")
    log: bool = Field(False, description="Draw the logarithm: for what spans orders of magnitude.")
    choices: Annotated[list[Any], Field(min_length=1)] | None = Field(
        None, description="Values of any type, in no order, instead of low and high."
    )

    @model_validator(mode="after")
    def _range_or_choices(self) -> "Dimension":
        if self.choices is not None:
            if (self.low, self.high, self.log) != (None, None, False):
                raise ValueError("give low and high, or choices, one of the two")
        elif self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        elif not self.low < self.high:
            raise ValueError(f"low must be less than high, found {self.low} to {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"with log, low must be greater than 0, found {self.low}")
        return self

    @property
    def ends(self) -> list[Any]:
        """Values that must be allowed for all of them to be."""
        return [self.low, self.high] if self.choices is None else self.choices

    def __str__(self) -> str:
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        return f"{self.low:g} to {self.high:g}" + (", by its logarithm" if self.log else "")


class TuneConfig(Section):
    """A search for hyperparameters by `jobs.tune`, judged by train.early_stopping.metric."""

    path: str = Field(description="Directory of the study, on a local disk.")
    trials: Positive = Field(20, description="Trainings, those of earlier runs among them.")
    seed: Seed = Field(0, description="Of the values that are tried.")
    space: Annotated[dict[str, Dimension], Field(min_length=1)] = Field(
        description="What is tried, by dotted key of model or train, as in "
        "{train.optimizer.learning_rate: {low: 1e-4, high: 1e-2, log: true}}."
    )

    @model_validator(mode="after")
    def _of_training(self) -> "TuneConfig":
        for key in self.space:
            if not key.startswith(_OPEN) or key.startswith(_CLOSED):
                raise ValueError(
                    f"space: '{key}' is not for trials to set; give dotted keys of model and "
                    f"train, but none of {', '.join(_CLOSED)}"
                )
        return self
