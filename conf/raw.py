"""The configuration of a table of raw rows."""

from pydantic import Field, model_validator

from conf.section import Section


class RawConfig(Section):
    """A table of raw rows: files, or a table of Spark's catalog."""

    path: str | None = Field(
        None, description="Where the files are; may be a pattern, such as lake/2026-*."
    )
    format: str = Field(
        "parquet", description="Of the files: parquet, csv, json, orc, or another that Spark reads."
    )
    options: dict[str, str] = Field(
        {}, description="Of Spark's reader, e.g. header: 'true' for csv."
    )
    table: str | None = Field(None, description="Name of a catalog table, instead of a path.")
    ds_column: str = Field(
        "ds",
        description="Column by which days are picked: a date, a timestamp (its day in UTC), or "
        "text that begins with YYYY-MM-DD.",
    )

    @model_validator(mode="after")
    def _files_or_table(self) -> "RawConfig":
        if (self.path is None) == (self.table is None):
            raise ValueError("give path or table, one of the two")
        if self.table is not None and (self.format != "parquet" or self.options):
            raise ValueError("format and options speak of files; a table knows its own")
        return self

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or f"table {self.table}"
