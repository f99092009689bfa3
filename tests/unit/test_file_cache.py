"""The cache of a store's files; the store is a directory here, and in tests/unit/test_s3.py S3."""

import logging
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.manifest import Manifest
from conf.training import CacheConfig
from nfm.epoch_plan import Block
from nfm.file_cache import FileCache
from nfm.stream import stream_batches
from tests.unit.test_manifest import manifest
from tests.unit.test_stream import FIELDS, encoded, numbers


def cache_of(
    directory: Path, size_bytes: int = 10_000, data_set: Manifest | None = None
) -> FileCache:
    return FileCache(
        CacheConfig(path=str(directory), size_gb=size_bytes / 1e9), data_set or manifest()
    )


def copies(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Four files of 1000 bytes each, named 0 to 3."""
    directory = tmp_path / "store"
    directory.mkdir()
    for number in range(4):
        (directory / str(number)).write_bytes(bytes([number]) * 1000)
    return directory


def test_what_was_read_once_needs_no_store(store: Path, tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "cache")
    first = [cache.read(f"{store}/{number}") for number in range(4)]
    store.rename(tmp_path / "gone")
    # Nor in another process, such as a training that goes on after a failure.
    for again in (cache, cache_of(tmp_path / "cache")):
        assert [again.read(f"{store}/{number}") for number in range(4)] == first


def test_features_built_anew_are_read_anew(tmp_path: Path) -> None:
    path, block = tmp_path / "part.parquet", Block((0,), 100, None)
    for start in (0, 500):
        pq.write_table(encoded(start, start + 100), path)
        # All that is certain to differ is when they were built.
        built = manifest().model_copy(update={"created_at": f"2026-01-01T00:00:{start}"})
        for _ in range(2):
            cache = cache_of(tmp_path / "cache", 10**6, built)
            batches = list(stream_batches([block], [str(path)], FIELDS, batch_rows=30, cache=cache))
            assert numbers(batches) == list(range(start, start + 100))


def test_it_stays_within_its_size_and_keeps_what_was_read_last(store: Path, tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "cache", 3500)
    for number in (0, 1, 2, 0, 3, 0):
        cache.read(f"{store}/{number}")
        assert sum(path.stat().st_size for path in copies(tmp_path / "cache")) <= 3500
    for number in (1, 2, 3, 0):
        (store / str(number)).unlink()
    assert [len(cache.read(f"{store}/{number}")) for number in (2, 3, 0)] == [1000] * 3
    with pytest.raises(FileNotFoundError):
        cache.read(f"{store}/1")


def test_a_file_larger_than_the_cache_is_not_kept(store: Path, tmp_path: Path) -> None:
    assert len(cache_of(tmp_path / "cache", 500).read(f"{store}/0")) == 1000
    assert copies(tmp_path / "cache") == []


def test_what_others_put_there_is_left_alone(store: Path, tmp_path: Path) -> None:
    others = [tmp_path / "cache" / "notes.txt", tmp_path / "cache" / "nfm-cache" / "notes.txt"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(5000))
        os.utime(path, (0, 0))
    cache = cache_of(tmp_path / "cache", 1500)
    for number in range(4):
        cache.read(f"{store}/{number}")
    assert all(path.exists() for path in others)
    assert len(copies(tmp_path / "cache")) == 3


def test_what_a_killed_process_had_begun_is_removed(store: Path, tmp_path: Path) -> None:
    begun = tmp_path / "cache" / "nfm-cache" / ".abc.parquet"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(bytes(1000))
    os.utime(begun, (0, 0))
    cache_of(tmp_path / "cache", 1500).read(f"{store}/0")
    assert not begun.exists()


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("not a directory")
    with caplog.at_level(logging.WARNING):
        assert cache_of(tmp_path / "cache").read(f"{store}/0") == bytes(1000)
    assert "no copy of" in caplog.text
