"""Encoded features by hand: files of given sizes, without Spark."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.manifest import FieldSpec, FileSpec, Manifest, SourceSpec, SplitSpec, write_manifest
from conf.schema import Config


def write_features(
    config: Config,
    files: Sequence[int],
    valid_files: Sequence[int],
    test_files: Sequence[int] = (),
) -> Manifest:
    """Write files of so many rows each, with a learnable label, and a manifest."""
    rng = np.random.default_rng(5)
    fields, offset = [], 0
    for field in config.fields:
        cardinality = 1 if field.kind == "numeric" else 20
        spec = FieldSpec(
            name=field.name,
            kind=field.kind,
            source=field.name,
            is_expr=False,
            cardinality=cardinality,
            offset=offset,
            length=getattr(field, "max_length", 1),
        )
        fields.append(spec)
        offset += cardinality
    splits = {
        split: _write_split(config, fields, split, rows, rng)
        for split, rows in (("train", files), ("valid", valid_files), ("test", test_files))
    }
    manifest = Manifest(
        schema_version=2,
        name=config.name,
        task=config.task,
        keys=config.keys,
        label=config.label,
        weight=config.weight,
        label_range=[0.0, 1.0] if config.task == "regression" else None,
        fields=fields,
        num_features=offset,
        splits=splits,
        vocabulary_fingerprint="by-hand",
        source=SourceSpec(name="none", rows=sum(files) + sum(valid_files)),
        config_fingerprint=config.fingerprint(),
        software={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    write_manifest(config.features.path, manifest)
    return manifest


def _write_split(
    config: Config,
    fields: Sequence[FieldSpec],
    split: str,
    files: Sequence[int],
    rng: np.random.Generator,
) -> SplitSpec:
    directory = Path(config.features.path) / split
    directory.mkdir(parents=True)
    written, positives = [], 0
    for number, rows in enumerate(files):
        columns = {}
        for field in fields:
            ids = rng.integers(1, field.cardinality + 1, (rows, field.length)) - 1
            if field.kind == "numeric":
                columns[field.name] = pa.array(rng.normal(size=rows).astype(np.float32))
            elif field.kind == "multi_valued":
                ids[:, 1:][rng.random((rows, field.length - 1)) < 0.5] = -1
                columns[field.name] = pa.array(ids.tolist(), pa.list_(pa.int32()))
            else:
                columns[field.name] = pa.array(ids[:, 0].astype(np.int32))
        parity = sum(columns[f.name].to_numpy() for f in fields if f.kind == "categorical") % 2
        label = np.where(rng.random(rows) < 0.8, parity, 1 - parity).astype(np.float32)
        positives += int(label.sum())
        columns["label"] = pa.array(label)
        if config.weight:
            columns["sample_weight"] = pa.array(rng.uniform(0, 3, rows).astype(np.float32))
        pq.write_table(pa.table(columns), directory / f"part-{number}.parquet")
        written.append(FileSpec(path=f"{split}/part-{number}.parquet", rows=rows))
    return SplitSpec(files=written, rows=sum(files), positives=positives)
