"""The manifest of a partition of scores: which files count, where they came from, what was found.

It is the last file of a partition: what it does not name is not part of it.
"""

import json
from typing import Literal

import pyarrow as pa
from pydantic import Field, ValidationError

from conf import storage
from conf.errors import DataError
from conf.manifest import CheckResult, SourceSpec
from conf.section import Section

# Of a row: the contributions of fields and of pairs of fields; `second` is null for one field.
EXPLANATION_TYPE = pa.list_(
    pa.struct([("first", pa.string()), ("second", pa.string()), ("contribution", pa.float64())])
)
FILE_NAME = "_manifest.json"  # Spark ignores names with an underscore
SCHEMA_VERSION: Literal[1] = 1


class ScoreFile(Section):
    """A Parquet file of scores."""

    path: str = Field(description="Relative to the partition.")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)


class PartitionManifest(Section):
    """A day's scores."""

    schema_version: Literal[1]
    ds: str
    run_id: str = Field(description="Of the run that published them; in the names of their files.")
    model_id: str
    vocabulary_fingerprint: str
    source: SourceSpec = Field(description="The raw rows.")
    rows: int = Field(ge=0, description="Scores in all files.")
    table: str | None = Field(None, description="Of the catalog, which holds the scores.")
    files: list[ScoreFile] = Field(description="Those that count; none where a table holds them.")
    columns: dict[str, str] = Field({}, description="Of the scores, with their Arrow types.")
    checks: list[CheckResult] = Field(description="The gates, as they were found.")
    forced: bool = Field(description="Whether a gate had failed, and --force published.")
    score_cells: list[list[int]] = Field(
        description="How the model's outputs for all rows, before calibration and top_k, are "
        "spread: pairs of a cell (conf.cells) and its rows."
    )
    seconds: dict[str, float] = Field(description="Time of each part of the run.")
    config: str = Field(description="The resolved configuration of the run, as YAML.")
    config_fingerprint: str
    software: dict[str, str]
    created_at: str


def partition_path(table: str, ds: str) -> str:
    """The directory of a day in the lake."""
    return f"{table.rstrip('/')}/ds={ds}"


def read_partition_manifest(directory: str, name: str = FILE_NAME) -> PartitionManifest | None:
    """Read the manifest of a partition; None where no partition is.

    Raises:
        DataError: It is damaged, or of another schema version.
    """
    path = f"{directory}/{name}"
    again = "score the day again (jobs.score)"
    try:
        data = json.loads(storage.read_text(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"'{path}' is damaged ({error}); {again}") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"'{path}' has schema version {version}, this release reads {SCHEMA_VERSION}; {again}"
        )
    try:
        return PartitionManifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"'{path}' is damaged ({where}: {first['msg']}); {again}") from None


def write_partition_manifest(
    directory: str, manifest: PartitionManifest, name: str = FILE_NAME
) -> None:
    """Write the manifest of a partition, atomically."""
    storage.write_text(f"{directory}/{name}", manifest.model_dump_json(indent=1) + "\n")
