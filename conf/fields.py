"""The kinds of fields, as typed models: what a model sees of a row."""

import keyword
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from conf.section import NAME, Positive, Section, Seed

# Columns of the features that are no fields.
LABEL, WEIGHT = "label", "sample_weight"


def _not_reserved(name: str) -> str:
    if name.lower() in (LABEL, WEIGHT) or keyword.iskeyword(name):
        raise ValueError(f"'{name}' is reserved; choose another field name")
    return name


# Field names become Parquet columns and attributes of Petastorm's namedtuples.
FieldName = Annotated[str, Field(pattern=NAME), AfterValidator(_not_reserved)]
DatePart = Literal[
    "year", "quarter", "month", "week", "day", "day_of_year", "weekday", "hour", "minute"
]


class _FieldBase(Section):
    name: FieldName = Field(description="Name of the field; also its column in the features.")
    column: str | None = Field(
        None, description="Raw column it is read from; by default the one of the field's name."
    )
    expr: str | None = Field(
        None, description="Spark SQL expression over the raw columns, instead of a column."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "_FieldBase":
        given = [key for key in ("column", "expr", "cross") if getattr(self, key, None) is not None]
        if len(given) > 1:
            raise ValueError(f"field '{self.name}': give {' or '.join(given)}, not both")
        return self


class _DiscreteBase(_FieldBase):
    cross: Annotated[list[str], Field(min_length=2)] | None = Field(
        None,
        description="Raw columns whose values together are the value, instead of a column; missing "
        "where one of them is.",
    )
    part: DatePart | None = Field(
        None, description="Part of the date or timestamp that is the value; weekday 0 is Monday."
    )

    @model_validator(mode="after")
    def _part_of_one(self) -> "_DiscreteBase":
        if self.part is not None and self.cross is not None:
            raise ValueError(f"field '{self.name}': part takes a column or an expr, not a cross")
        return self


class VocabularyOptions(Section):
    """Which values of a field are known, and what becomes of the others."""

    min_count: Positive = Field(1, description="Training rows that a known value is in, at least.")
    max_size: Positive | None = Field(
        None, description="Known values, at most: the most frequent ones."
    )
    num_oov_buckets: Positive = Field(
        1, description="Ids that unknown values share, by a hash; 1 is one id for all of them."
    )


class CategoricalField(_DiscreteBase, VocabularyOptions):
    """One value per row out of a vocabulary; one-hot indexed."""

    kind: Literal["categorical"] = Field(description="One value per row, out of a vocabulary.")


class HashedField(_DiscreteBase):
    """One value per row, whose id is a hash of it: no vocabulary is kept."""

    kind: Literal["hashed"] = Field(description="One value per row, by its hash.")
    num_buckets: Positive = Field(description="Ids that the values share.")
    seed: Seed = Field(0, description="Of the hash.")


class MultiValuedField(_FieldBase, VocabularyOptions):
    """A list of values per row out of one vocabulary; each enters as x by its weighting."""

    kind: Literal["multi_valued"] = Field(description="A list of values per row.")
    max_length: Positive = Field(
        description="Values kept per row, the first ones; shorter lists are padded."
    )
    delimiter: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="What separates the values, where the lists are strings; empty parts are no "
        "values.",
    )
    weighting: Literal["one", "mean", "sqrt"] = Field(
        "mean",
        description="x of each of n values: 1, 1/n or 1/sqrt(n); one that comes twice has the sum.",
    )


class NumericField(_FieldBase):
    """One real-valued feature x: clipped, log1p, scaled, in this order; missing is x = 0."""

    kind: Literal["numeric"] = Field(description="A number used as the real value x_i.")
    clip: Annotated[list[float | None], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="Least and greatest value; null for none. What lies beyond is moved there.",
    )
    log1p: bool = Field(False, description="Take log(1 + x); needs clip: [0, null] or above.")
    scale: Literal["standard", "min_max", "none"] = Field(
        "standard",
        description="By the training rows' mean and deviation, by their least and greatest value "
        "to [0, 1], or not at all.",
    )

    @model_validator(mode="after")
    def _clip_fits(self) -> "NumericField":
        low, high = self.clip or [None, None]
        if low is not None and high is not None and low >= high:
            raise ValueError(f"field '{self.name}': clip must rise, found {low:g} to {high:g}")
        if self.log1p and (low is None or low < 0):
            raise ValueError(
                f"field '{self.name}': log1p takes values from 0 up; give clip: [0, null]"
            )
        return self


class BucketisedField(_FieldBase):
    """A number turned into a category by edges: fitted on the training rows, or given."""

    kind: Literal["bucketised"] = Field(description="A number cut into buckets.")
    method: Literal["quantile", "log2", "edges"] = Field(
        "quantile",
        description="Buckets of as many rows each, of powers of two (below 1, from 1, 2, 4, 8, "
        "...), or between the given edges.",
    )
    num_buckets: Annotated[int, Field(ge=2, le=256)] = Field(
        10, description="Quantile: buckets asked for; fewer come out where quantiles coincide."
    )
    edges: Annotated[list[float], Field(min_length=1)] | None = Field(
        None, description="Lower edges of all buckets but the first, ascending."
    )

    @model_validator(mode="after")
    def _edges_rise(self) -> "BucketisedField":
        if (self.method == "edges") != (self.edges is not None):
            raise ValueError(f"field '{self.name}': edges go with method: edges, and only with it")
        if any(low >= high for low, high in pairwise(self.edges or [])):
            raise ValueError(f"field '{self.name}': edges must ascend")
        return self


FieldConfig = Annotated[
    CategoricalField | HashedField | MultiValuedField | NumericField | BucketisedField,
    Field(discriminator="kind"),
]
