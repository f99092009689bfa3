"""Implicit feedback: how rows with label 0 are drawn for those with label 1."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.section import Positive, Section, Seed


class NegativesConfig(Section):
    """Each row with label 1 again with label 0, for items that its user never touched."""

    per_positive: Positive = Field(description="Rows drawn for each positive, of distinct items.")
    strategy: Literal["uniform", "popularity"] = Field(
        "uniform",
        description="Every item of the raw table alike (where a time or a column splits, training "
        "rows get items of training rows), or each by its number of positives in the training "
        "rows.",
    )
    exclude: Literal["seen"] = Field(
        "seen",
        description="Items that are never drawn for a user: those of all the user's rows, "
        "whatever their label and split.",
    )
    user: Annotated[list[str], Field(min_length=1)] = Field(
        description="Raw columns that name a user."
    )
    item: str = Field(description="Raw column that names an item; belongs into keys.")
    item_columns: list[str] = Field(
        [],
        description="Raw columns that go with the item; all others, such as time, day and weight, "
        "are the positive's.",
    )
    seed: Seed = Field(0, description="Of the draws.")

    @model_validator(mode="after")
    def _columns_differ(self) -> "NegativesConfig":
        # Spark does not tell User from user.
        names = [name.lower() for name in (*self.user, self.item, *self.item_columns)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' is named twice in user, item and item_columns")
        return self
