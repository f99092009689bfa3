"""Partitions of scores for the tests of the lake."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from conf import storage
from conf.manifest import SourceSpec
from conf.partition import PartitionManifest, ScoreFile
from conf.raw import RawConfig
from conf.scoring import ScoreConfig
from feature_eng.lake import Publication, publication

Rows = Sequence[tuple[int, float]]


def score_config(path: object, **options: object) -> ScoreConfig:
    return ScoreConfig(raw=RawConfig(path="raw"), path=str(path), **options)


def write_scores(directory: str, run_id: str, rows: Rows, extra: pa.Array | None = None) -> str:
    """A file as a worker would write it; its name."""
    columns = {
        "user": pa.array([user for user, _ in rows], pa.int64()),
        "score": pa.array([score for _, score in rows], pa.float64()),
        "scored_at": pa.array([datetime.now(UTC)] * len(rows), pa.timestamp("us", "UTC")),
    }
    if extra is not None:
        columns["extra"] = extra
    name = f"part-{run_id}-{uuid.uuid4().hex[:8]}.parquet"
    fs, plain = storage.filesystem(f"{directory}/{name}")
    pq.write_table(pa.table(columns), plain, filesystem=fs)
    return name


def manifest_for(
    directory: str, names: Sequence[str], ds: str, run_id: str, **changes: object
) -> PartitionManifest:
    fs, plain = storage.filesystem(directory)
    files = [
        ScoreFile(
            path=name,
            rows=pq.read_table(f"{plain}/{name}", filesystem=fs, partitioning=None).num_rows,
            bytes=fs.size(f"{plain}/{name}"),
        )
        for name in names
    ]
    manifest = PartitionManifest(
        schema_version=1,
        ds=ds,
        run_id=run_id,
        model_id="model-1",
        vocabulary_fingerprint="ab",
        source=SourceSpec(name="raw", rows=7, ds_from=ds, ds_to=ds),
        rows=sum(file.rows for file in files),
        files=files,
        checks=[],
        forced=False,
        score_cells=[],
        seconds={"score": 1.5},
        config="name: x\n",
        config_fingerprint="cd",
        software={"pyspark": "4"},
        created_at=datetime.now(UTC).isoformat(),
    )
    return manifest.model_copy(update=changes)


def commit(
    published: Publication,
    ds: str,
    run_id: str,
    *parts: Rows,
    extra: pa.Array | None = None,
    **changes: object,
) -> PartitionManifest:
    """Write a file of each part and publish them."""
    names = [write_scores(published.directory, run_id, rows, extra) for rows in parts]
    manifest = manifest_for(published.directory, names, ds, run_id, **changes)
    published.commit(manifest)
    return manifest


def publish(
    spark: SparkSession | None,
    config: ScoreConfig,
    ds: str,
    run_id: str,
    *parts: Rows,
    **changes: object,
) -> PartitionManifest:
    """Publish a day with a file of each part, and these values in its manifest."""
    with publication(spark, config, ds, run_id) as published:  # type: ignore[arg-type]
        return commit(published, ds, run_id, *parts, **changes)
