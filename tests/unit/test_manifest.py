import json
from pathlib import Path

import pytest

from conf.errors import DataError
from conf.manifest import Manifest, SourceSpec, SplitSpec, read_manifest, write_manifest
from conf.schema import LabelConfig
from tests.unit.test_batch import field


def manifest() -> Manifest:
    split = SplitSpec(files=[], rows=0, positives=0)
    return Manifest(
        schema_version=2,
        name="m",
        task="binary",
        keys=["k"],
        label=LabelConfig(column="clicked"),
        fields=[field("a", "categorical", 3, 0)],
        num_features=3,
        splits={"train": split, "valid": split, "test": split},
        vocabulary_fingerprint="0" * 32,
        source=SourceSpec(name="raw", rows=0),
        config_fingerprint="1",
        software={},
        created_at="2026-01-01T00:00:00+00:00",
    )


def test_a_manifest_reads_back_equal(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), manifest())
    assert read_manifest(str(tmp_path)) == manifest()


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest at .*build the features again"):
        read_manifest(str(tmp_path))


def test_a_truncated_manifest_is_refused(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), manifest())
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("change", [{"schema_version": 1}, {"schema_version": None}])
def test_another_schema_version_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    data = json.loads(manifest().model_dump_json()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="this release reads 2"):
        read_manifest(str(tmp_path))


def test_a_manifest_with_a_missing_part_is_refused(tmp_path: Path) -> None:
    data = json.loads(manifest().model_dump_json())
    del data["fields"][0]["offset"]
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"is damaged \(fields\.0\.offset"):
        read_manifest(str(tmp_path))
