"""The data contract: what a build is held to before it is published."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.section import Positive, Section

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class ColumnCheck(Section):
    """What a raw column must be like."""

    column: str = Field(description="Raw column.")
    type: str | None = Field(
        None, description="Its type as Spark names it: string, int, bigint, array<string>, ..."
    )
    max_null_share: Fraction | None = Field(
        None, description="Most of its rows that may be null; 0 where none may."
    )
    min: float | None = Field(None, description="Least value of a number; NaN is out of any range.")
    max: float | None = Field(None, description="Greatest value of a number.")
    allowed: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="All values that it may hold, as text."
    )

    @model_validator(mode="after")
    def _range_rises(self) -> "ColumnCheck":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"'{self.column}': min {self.min:g} must not exceed max {self.max:g}")
        return self


class DriftCheck(Section):
    """How far a field may have moved from the base build."""

    warn: Annotated[float, Field(gt=0.0)] = Field(
        0.1, description="Population stability index, or rise of the unknown share, to warn of."
    )
    fail: Annotated[float, Field(gt=0.0)] = Field(0.25, description="The same, to fail at.")

    @model_validator(mode="after")
    def _rises(self) -> "DriftCheck":
        if self.warn > self.fail:
            raise ValueError(f"warn {self.warn:g} must not exceed fail {self.fail:g}")
        return self


class ChecksConfig(Section):
    """All that is checked; what is not given is not."""

    on_breach: Literal["fail", "warn"] = Field(
        "fail", description="Whether a breach ends the build, with exit code 3, or is only told."
    )
    columns: list[ColumnCheck] = Field([], description="Raw columns.")
    min_rows: Positive | None = Field(None, description="Fewest raw rows.")
    label_rate: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = Field(
        None, description="Least and greatest share of raw rows with label 1; task binary."
    )
    max_row_change: Annotated[float, Field(gt=0.0)] | None = Field(
        None,
        description="Most that the number of raw rows may differ from that of the base, else of "
        "the version that is replaced, as a share of it.",
    )
    max_unknown_share: dict[str, Fraction] = Field(
        {}, description="By field, most values of the validation rows that may be unknown."
    )
    drift: DriftCheck = Field(
        DriftCheck(), description="Of each field's ids from those of the base, if there is one."
    )

    @model_validator(mode="after")
    def _rate_rises(self) -> "ChecksConfig":
        if self.label_rate and self.label_rate[0] > self.label_rate[1]:
            raise ValueError(f"label_rate must rise, found {self.label_rate}")
        return self
