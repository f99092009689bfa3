"""A Delta table: a day's files change in one transaction of its log, without Spark.

What counts is what the log names. A manifest is written under the name of its run before the
transaction, and counts while the log names its files: so it always speaks of the files that are
there, whenever a run is killed, and also after a RESTORE of an earlier version.
"""

import json
import logging
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions
from pyspark.sql import DataFrame, SparkSession

from conf import storage
from conf.errors import ConfigError, DataError, RunError
from conf.partition import FILE_NAME, PartitionManifest, partition_path
from conf.scoring import DS, ScoreConfig
from feature_eng.lake.delta_manifests import (
    is_of,
    manifest_of_files,
    write_manifest,
    written_manifests,
)
from feature_eng.lake.parquet import read_files
from feature_eng.lake.way import Made, Publish, older

_TRIES = 10

logger = logging.getLogger(__name__)


def begin(spark: SparkSession, config: ScoreConfig, ds: str, run_id: str) -> Publish:
    """Begin to replace a day's files.

    Raises:
        ConfigError: What is there is no table of scores.
    """
    root = storage.absolute(config.path)
    before = _active(_table(root), ds)

    def publish(staging: str, manifest: PartitionManifest) -> None:
        table = _table(root)
        if _has(table, run_id, ds):
            logger.warning(
                "run '%s' has published %s of '%s' before, and that stays: to replace it, run "
                "under another --run-id",
                *(run_id, ds, root),
            )
            return
        names = [file.path for file in manifest.files]
        schema = _schema(f"{staging}/{names[0]}")
        if table is not None:
            _merged(root, table.schema(), schema)  # refused before anything lies in the table
            _refuse_other_run(root, table, ds, before)
        storage.move_files(staging, partition_path(root, ds), names)
        write_manifest(root, manifest)
        _commit(root, schema, manifest, before)

    return publish


def _commit(root: str, schema: pa.Schema, manifest: PartitionManifest, before: set[str]) -> None:
    """Exchange a day's files in one transaction.

    Raises:
        RunError: Another run did so since ``before``, or the log could not be written.
    """
    ds, adds, properties = manifest.ds, _adds(manifest), _properties(manifest)
    for left in reversed(range(_TRIES)):
        try:
            create_table_with_add_actions(
                root, Schema.from_arrow(schema), [], mode="ignore", partition_by=[DS]
            )
            table = DeltaTable(root)
            if _has(table, manifest.run_id, ds):  # in spite of an error
                return
            _refuse_other_run(root, table, ds, before)
            table.create_write_transaction(
                adds,
                mode="overwrite",
                schema=_merged(root, table.schema(), schema),
                partition_by=[DS],
                partition_filters=[(DS, "=", ds)],
                commit_properties=properties,
            )
        except DeltaError as error:  # by another day's run, which made the table or a column
            if not left:
                raise RunError(
                    f"{ds} could not be published in the Delta table '{root}': {error}; run again"
                ) from None
        else:
            return


def _refuse_other_run(root: str, table: DeltaTable, ds: str, before: set[str]) -> None:
    if _active(table, ds) != before:
        raise RunError(
            f"another run published {ds} of '{root}' meanwhile: that one stays, and nothing of "
            f"this one was published; run again if it is to be replaced"
        )


def _adds(manifest: PartitionManifest) -> list[AddAction]:
    now = int(time.time() * 1000)
    return [
        AddAction(
            path=f"{DS}={manifest.ds}/{file.path}",
            size=file.bytes,
            partition_values={DS: manifest.ds},
            modification_time=now,
            data_change=True,
            stats=json.dumps({"numRecords": file.rows}),
        )
        for file in manifest.files
    ]


def _properties(manifest: PartitionManifest) -> CommitProperties:
    run = Transaction(_application(manifest.run_id, manifest.ds), 1)
    # Two runs that publish a day for the first time remove nothing of one another's; where there
    # are no locks, this one makes them conflict.
    day = Transaction(f"{DS}={manifest.ds}", 1)
    return CommitProperties(
        custom_metadata={"nfm_run": manifest.run_id, "model_id": manifest.model_id},
        app_transactions=[run, day],
    )


def _schema(file: str) -> pa.Schema:
    """That of the table: a column may be missing from days of other configurations."""
    fs, plain = storage.filesystem(file)
    with fs.open(plain, "rb") as opened:
        schema = pq.read_schema(opened)
    fields = [field.with_nullable(True) for field in schema]
    return pa.schema([*fields, pa.field(DS, pa.date32())])


def _merged(root: str, table: Schema, new: pa.Schema) -> Schema:
    """The table's columns, and those that are new.

    Raises:
        DataError: A column has another type than in the table.
    """
    had = {field.name: field for field in table.fields}
    added = {field.name: field for field in Schema.from_arrow(new).fields}
    for name in had.keys() & added.keys():
        if had[name].type != added[name].type:
            raise DataError(
                f"column '{name}' is {added[name].type}, and {had[name].type} in the Delta table "
                f"'{root}': nothing was published; choose another score.path for another contract"
            )
    return Schema([*had.values(), *(field for name, field in added.items() if name not in had)])


def _table(root: str) -> DeltaTable | None:
    """The table; None where there is none yet.

    Raises:
        ConfigError: It is none of ours.
    """
    if not DeltaTable.is_deltatable(root):
        fs, plain = storage.filesystem(root)
        if fs.glob(f"{plain}/{DS}=*/{FILE_NAME}"):
            raise ConfigError(
                f"score.format is delta, and '{root}' holds plain Parquet partitions: say format: "
                f"parquet, or choose another score.path"
            )
        return None
    table = DeltaTable(root)
    if table.metadata().partition_columns != [DS]:
        raise ConfigError(
            f"the Delta table '{root}' is partitioned by {table.metadata().partition_columns}, "
            f"scores are by ['{DS}']: choose another score.path"
        )
    return table


def _has(table: DeltaTable | None, run_id: str, ds: str) -> bool:
    """Whether a run has published a day: a retry under its id must not do so twice."""
    return table is not None and table.transaction_version(_application(run_id, ds)) is not None


def _application(run_id: str, ds: str) -> str:
    """A scheduler may score several days under one id."""
    return f"{run_id}/{DS}={ds}"


def _active(table: DeltaTable | None, ds: str) -> set[str]:
    """Names of a day's files in the log."""
    if table is None:
        return set()
    paths = table.file_uris(partition_filters=[(DS, "=", ds)])
    return {path.rpartition("/")[2] for path in paths}


def manifest_of(config: ScoreConfig, ds: str) -> PartitionManifest | None:
    """The manifest whose files are those of the log; None also if another tool rewrote them.

    Raises:
        DataError: None of the readable ones is it, and one is damaged.
    """
    root = storage.absolute(config.path)
    active = _active(_table(root), ds)
    return manifest_of_files(root, ds, active) if active else None


def read(
    spark: SparkSession, config: ScoreConfig, ds: str, use: Callable[[DataFrame], Made]
) -> Made | None:
    """Read a day's files as the log names them now; old ones stay until they are vacuumed."""
    root = storage.absolute(config.path)
    files = [f"{partition_path(root, ds)}/{name}" for name in sorted(_active(_table(root), ds))]
    return use(read_files(spark, root, files)) if files else None


def unused(config: ScoreConfig, keep_hours: int) -> dict[str, list[str]]:
    """Files that the log needs no more or never knew, and manifests of nothing else."""
    root = storage.absolute(config.path)
    if (table := _table(root)) is None:
        return {}
    found: dict[str, list[str]] = {}
    fs, plain = storage.filesystem(root)
    paths = table.vacuum(keep_hours, dry_run=True, enforce_retention_duration=False, full=True)
    for path in paths:
        if path.startswith(f"{DS}="):
            ds = path.partition("/")[0].removeprefix(f"{DS}=")
            found.setdefault(ds, []).append(f"{plain}/{path}")
    for path in written_manifests(root, "*"):
        ds = path.split("/")[-2].removeprefix(f"{DS}=")
        present = set(fs.glob(f"{partition_path(plain, ds)}/*")) - set(found.get(ds, ()))
        if not is_of(path, present) and older(fs, path, keep_hours):
            found.setdefault(ds, []).append(path)
    return found


def counting(config: ScoreConfig, ds: str) -> set[str]:
    """The files that the log names, and their manifest."""
    root = storage.absolute(config.path)
    _, plain = storage.filesystem(root)
    active = _active(_table(root), ds)
    files = {f"{partition_path(plain, ds)}/{name}" for name in active}
    return files | {path for path in written_manifests(root, ds) if is_of(path, active)}
