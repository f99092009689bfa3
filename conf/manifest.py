"""The manifest: the contract between the Spark side and the training side.

It is the last file written into a features directory: no manifest, no data set.
"""

import json
import math
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from conf import storage
from conf.errors import DataError
from conf.schema import LabelConfig
from conf.section import Section

SCHEMA_VERSION: Literal[2] = 2
FILE_NAME = "manifest.json"
VOCABULARY = "vocabulary"

# Local ids: missing, then one or more for unknown values, then the known ones (FieldSpec).
MISSING, UNKNOWN = 0, 1
# Fills a multi-valued list up to its length; stands for no feature at all.
PADDING = -1


# What of a field is configured, where the rest is fitted.
CONFIGURED = (
    *("kind", "source", "is_expr", "length"),
    *("oov_buckets", "seed", "weighting", "clip", "log1p"),
)


class FieldSpec(Section):
    """How one field was encoded; all a reader or a scorer needs to encode it again."""

    name: str = Field(description="Column of the features.")
    kind: Literal["categorical", "hashed", "multi_valued", "numeric", "bucketised"]
    source: str = Field(description="Raw column, or the SQL expression.")
    is_expr: bool = Field(description="Whether source is an expression.")
    cardinality: int = Field(ge=1, description="Indices the field owns in the one-hot space.")
    offset: int = Field(ge=0, description="First of them; global index = offset + local id.")
    length: int = Field(ge=1, description="Values per row; above 1 only where multi-valued.")
    oov_buckets: int = Field(1, ge=1, description="Ids of unknown values, or of hashed ones.")
    seed: int = Field(0, description="Hashed: of the hash.")
    weighting: Literal["one", "mean", "sqrt"] = Field(
        "mean", description="Multi-valued: x of each of n values is 1, 1/n or 1/sqrt(n)."
    )
    fitting: str | None = Field(
        None, description="Numeric and bucketised: by what scales or edges are fitted, or these."
    )
    edges: list[float] = Field([], description="Bucketised: lower edges of all but the first.")
    clip: list[float | None] | None = Field(None, description="Numeric: least and greatest value.")
    log1p: bool = Field(False, description="Numeric: whether log(1 + x) follows.")
    shift: float = Field(0.0, description="Numeric: subtracted then.")
    scale: float = Field(1.0, description="Numeric: divided by at last.")
    missing_rate: dict[str, float] = Field({}, description="Share of rows without a value.")
    oov_rate: dict[str, float] = Field({}, description="Share of the values that are unknown.")
    truncated_rate: dict[str, float] = Field(
        {}, description="Multi-valued: share of rows with more values than length."
    )

    histogram: list[int] = Field(
        [],
        description="Ids of the training rows by cell: feature_eng.histogram; numbers have none.",
    )

    def encodes_like(self, other: "FieldSpec") -> bool:
        """Whether a value has the same x and, with the same vocabulary, the same local id in both.

        Lists may be cut at another length; statistics of the same rows may differ in their last
        bits with the rows' partitioning.
        """
        same = [key for key in (*CONFIGURED, "edges") if key != "length"]
        return (
            all(getattr(self, key) == getattr(other, key) for key in same)
            and math.isclose(self.shift, other.shift, rel_tol=1e-9, abs_tol=1e-12)
            and math.isclose(self.scale, other.scale, rel_tol=1e-9)
        )

    @property
    def has_vocabulary(self) -> bool:
        """Whether ids are looked up by value."""
        return self.kind in ("categorical", "multi_valued")

    @property
    def first_known(self) -> int:
        """Local id of the first known value; the others follow by count descending, then value."""
        return UNKNOWN + self.oov_buckets


class FileSpec(Section):
    """One Parquet file, which holds one row group."""

    path: str = Field(description="Relative to the manifest.")
    rows: int = Field(ge=1)


class SplitSpec(Section):
    """The files of a split, in the order of their names."""

    files: list[FileSpec]
    rows: int = Field(ge=0)
    positives: int | None = Field(description="Rows with label 1; none for a regression.")


class SourceSpec(Section):
    """Where the rows came from."""

    name: str = Field(description="Path, or catalog table.")
    rows: int
    ds_from: str | None = Field(None, description="First day that was taken.")
    ds_to: str | None = Field(None, description="Last day that was taken.")


Outcome = Literal["pass", "warn", "fail"]


class CheckResult(Section):
    """One line of the data contract, held against the data."""

    check: str
    of: str = Field(description="Column or field; empty for the whole table.")
    expected: str
    found: str
    outcome: Outcome

    def line(self) -> str:
        """The result as one line."""
        of = f" of '{self.of}'" if self.of else ""
        return f"{self.outcome}: {self.check}{of}: {self.expected} expected, {self.found} found"


class Manifest(Section):
    """A version of the features."""

    schema_version: Literal[2]
    name: str
    task: Literal["binary", "regression"]
    keys: list[str]
    label: LabelConfig
    weight: str | None = Field(
        None, description="Raw column of sample_weight; none where every row weighs 1."
    )
    label_range: list[float] | None = Field(
        None,
        description="Regression: least and greatest label of the training rows; predictions are "
        "clipped to it.",
    )
    fields: list[FieldSpec]
    num_features: int = Field(ge=1, description="Size of the one-hot space.")
    splits: dict[str, SplitSpec]
    vocabulary_fingerprint: str
    base_fingerprint: str | None = Field(
        None, description="Of the vocabulary that this one grew from, ids and all."
    )
    source: SourceSpec
    checks: list[CheckResult] = Field([], description="The data contract, as it was found.")
    config_fingerprint: str
    software: dict[str, str]
    created_at: str

    @model_validator(mode="after")
    def _knows_the_range(self) -> "Manifest":
        if (self.label_range is None) == (self.task == "regression"):
            raise ValueError("label_range goes with a regression, and only with it")
        return self

    def field(self, name: str) -> FieldSpec:
        """The field of that name."""
        return next(field for field in self.fields if field.name == name)


def read_manifest(directory: str) -> Manifest:
    """Read the manifest of a features directory or of a bundle.

    Raises:
        DataError: It is missing, damaged or of another schema version.
    """
    path = f"{directory}/{FILE_NAME}"
    rebuild = "build the features again (jobs.build_features --overwrite)"
    try:
        data = json.loads(storage.read_text(path))
    except FileNotFoundError:
        raise DataError(
            f"no manifest at '{path}': no complete data set is there; {rebuild}"
        ) from None
    except ValueError as error:
        raise DataError(f"manifest '{path}' is damaged ({error}); {rebuild}") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"manifest '{path}' has schema version {version}, this release reads "
            f"{SCHEMA_VERSION}; {rebuild}"
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"manifest '{path}' is damaged ({where}: {first['msg']}); {rebuild}"
        ) from None


def write_manifest(directory: str, manifest: Manifest) -> None:
    """Write the manifest of a directory, atomically."""
    storage.write_text(f"{directory}/{FILE_NAME}", manifest.model_dump_json(indent=1) + "\n")
