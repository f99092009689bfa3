"""The manifest: the contract between the Spark side and the training side.

It is the last file written into a features directory: no manifest, no data set.
"""

import json
from typing import Literal

from pydantic import Field, ValidationError

from conf import storage
from conf.errors import DataError
from conf.schema import LabelConfig
from conf.section import Section

SCHEMA_VERSION: Literal[1] = 1
FILE_NAME = "manifest.json"
VOCABULARY = "vocabulary"

# Local ids of a categorical field; known values follow, by count descending, then by value.
MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2
# Fills a multi-valued list up to its length; stands for no feature at all.
PADDING = -1


class FieldSpec(Section):
    """How one field was encoded; all a reader or a scorer needs to encode it again."""

    name: str = Field(description="Column of the features.")
    kind: Literal["categorical", "multi_valued", "numeric", "bucketised"]
    source: str = Field(description="Raw column, or the SQL expression.")
    is_expr: bool = Field(description="Whether source is an expression.")
    cardinality: int = Field(ge=1, description="Indices the field owns in the one-hot space.")
    offset: int = Field(ge=0, description="First of them; global index = offset + local id.")
    length: int = Field(ge=1, description="Values per row; above 1 only where multi-valued.")
    edges: list[float] = Field([], description="Bucketised: lower edges of all but the first.")
    mean: float = Field(0.0, description="Numeric: subtracted.")
    std: float = Field(1.0, description="Numeric: divided by.")
    missing_rate: dict[str, float] = Field({}, description="Share of rows without a value.")
    oov_rate: dict[str, float] = Field({}, description="Share of the values that are unknown.")


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

    path: str
    rows: int


class Manifest(Section):
    """A version of the features."""

    schema_version: Literal[1]
    name: str
    task: Literal["binary", "regression"]
    keys: list[str]
    label: LabelConfig
    fields: list[FieldSpec]
    num_features: int = Field(ge=1, description="Size of the one-hot space.")
    splits: dict[str, SplitSpec]
    vocabulary_fingerprint: str
    source: SourceSpec
    config_fingerprint: str
    software: dict[str, str]
    created_at: str


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
