"""The configuration of the nightly batch, and what its partitions are held to."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.raw import RawConfig
from conf.section import Positive, Section

SCORE, MODEL_ID, SCORED_AT, EXPLANATION, DS = "score", "model_id", "scored_at", "explanation", "ds"
# What the scores hold beside the keys and the columns that are kept.
SCORE_COLUMNS = (SCORE, MODEL_ID, SCORED_AT, EXPLANATION, DS)

Calibration = Literal["none", "isotonic", "platt"]


class Limits(Section):
    """From where on a figure is told of, and from where on nothing is published."""

    warn: Annotated[float, Field(ge=0.0)] | None = Field(None, description="Warns from here on.")
    fail: Annotated[float, Field(ge=0.0)] | None = Field(None, description="Fails from here on.")

    @model_validator(mode="after")
    def _rises(self) -> "Limits":
        if self.warn is not None and self.fail is not None and self.warn > self.fail:
            raise ValueError(f"warn {self.warn:g} must not exceed fail {self.fail:g}")
        return self


class GatesConfig(Section):
    """What the scores of a day are held to before they are published."""

    min_rows: Annotated[int, Field(ge=0)] = Field(
        1, description="Fewest rows to score; with 0 a day without rows has an empty partition."
    )
    duplicate_keys: Literal["ignore", "warn", "fail"] = Field(
        "warn", description="What becomes of keys that more than one row of scores has."
    )
    missing_share: Limits = Field(
        Limits(warn=0.1, fail=0.5),
        description="Rise of a field's share of rows without a value over that in training. With "
        "`fail`, a field of which nothing is left fails whatever the rise, unless by chance.",
    )
    unknown_share: Limits = Field(
        Limits(warn=0.1, fail=0.5),
        description="Rise of a field's share of unknown values over that of the validation rows. "
        "With `fail`, one of which no value is known fails whatever the rise, unless by chance.",
    )
    reference_drift: Limits = Field(
        Limits(warn=0.25),
        description="Population stability index of the scores against those of the validation "
        "rows, which the bundle holds.",
    )
    yesterday_drift: Limits = Field(
        Limits(warn=0.1, fail=0.5),
        description="The same against the newest partition with rows of the seven days before; "
        "one of another model only warns.",
    )
    constant_share: Limits = Field(
        Limits(warn=0.5, fail=0.99),
        description="Share of rows with the most frequent published score, from 100 rows on.",
    )


class CandidatesConfig(Section):
    """For ``--candidates cross``: every user of the day with every item that he has not seen.

    A field is taken from the table that has its column, or all columns that its expression needs.
    Of what both tables have, the columns of ``user`` and the ``ds_column`` of score.raw are the
    user's, those of ``item`` the item's; any other that is needed is refused until ``shared`` names
    it. So is a field that needs columns of both, such as a cross of user and item.
    """

    user: Annotated[list[str], Field(min_length=1)] = Field(
        description="Columns of score.raw, whose rows are the users then, that name one."
    )
    items: RawConfig = Field(description="A row per item; all its rows are taken.")
    item: Annotated[list[str], Field(min_length=1)] = Field(
        description="Columns of the items that name one."
    )
    shared: dict[str, Literal["user", "item"]] = Field(
        {},
        description="Columns that users and items both have, and whose value a pair takes, as in "
        "{price: item}.",
    )
    seen: RawConfig | None = Field(
        None,
        description="Rows with the columns of user and item: pairs to leave out. Where they have "
        "its ds_column, those of later days do not count.",
    )


class ScoreConfig(Section):
    """The nightly batch."""

    raw: RawConfig = Field(description="The raw rows to score; --ds picks the day.")
    path: str = Field(
        description="The lake's directory of scores, partitioned by ds; with a table, where the "
        "record of each day is kept."
    )
    format: Literal["parquet", "delta"] = Field(
        "parquet", description="Of the lake: plain Parquet partitions, or a Delta table."
    )
    table: str | None = Field(
        None, description="Table of Spark's catalog that takes the scores, instead of path."
    )
    optional: list[str] = Field(
        [],
        description="Fields that score.raw may lack the column of: its rows have no value then. "
        "Of these missing_share only warns.",
    )
    columns: list[str] = Field([], description="Raw columns that the scores keep beside the keys.")
    top_k: Positive | None = Field(
        None,
        description="Rows kept for each value of `by`: those with the greatest outputs of the "
        "model, before calibration gives many the same score; of equal ones the first by key.",
    )
    by: str | None = Field(None, description="Key column for whose values top_k rows are kept.")
    calibration: Calibration = Field(
        "none",
        description="Whether scores are probabilities as the validation rows came out: by an "
        "isotonic or by Platt's curve, which the bundle holds; task binary.",
    )
    explain: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Number of strongest contributions of fields and pairs of fields that each "
        "row lists; for lr, fm and nfm.",
    )
    candidates: CandidatesConfig | None = Field(
        None, description="Pairs to score instead of rows, with --candidates cross."
    )
    gates: GatesConfig = Field(
        GatesConfig(), description="What the scores are held to before they are published."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ScoreConfig":
        if (self.top_k is None) != (self.by is None):
            raise ValueError("top_k and by go together: so many rows for each value of a column")
        if self.table is not None and self.format != "parquet":
            raise ValueError("format speaks of the files below path; a table knows its own")
        return self
