"""Features in a real S3 API, served on the loopback by moto."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs

from conf import publishing, storage
from conf.errors import DataError, RunError
from conf.partition import PartitionManifest
from conf.training import CacheConfig
from feature_eng.lake import manifest_of, parquet, publication
from feature_eng.lake.vacuum import vacuum
from nfm.batch import Batch
from nfm.epoch_plan import Block
from nfm.file_cache import FileCache
from nfm.stream import stream_batches
from tests.scores import commit, manifest_for, score_config, write_scores
from tests.scores import publish as publish_scores
from tests.stores import ObjectStore
from tests.unit.test_manifest import manifest
from tests.unit.test_stream import FIELDS, ROWS, numbers, write

BLOCKS = [Block((3, 0, 1), 149, (1, 2)), Block((2, 4), 51, (3, 4))]


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[ObjectStore]:
    caplog.set_level(logging.INFO, logger="werkzeug")
    with ObjectStore.running(monkeypatch) as store:
        yield store


def requests(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Method and path of each request so far."""
    lines = [record.getMessage() for record in caplog.records if record.name == "werkzeug"]
    return [found[1] for line in lines if (found := re.search(r'"(\w+ \S+) HTTP', line))]


@pytest.fixture
def paths(store: ObjectStore, tmp_path: Path) -> list[str]:
    """The files of the stream's tests, put into a bucket."""
    fs, _ = storage.filesystem("s3://lake")
    remote = []
    for number, path in enumerate(write(tmp_path, ROWS)):
        # Names that a URL would have to quote.
        remote.append(f"s3://lake/features/v 1/day=2026#{number}.parquet")
        fs.put_file(path, remote[-1])
    return remote


def local_numbers(tmp_path: Path) -> list[int]:
    local = tmp_path / "local"
    local.mkdir()
    return numbers(list(stream_batches(BLOCKS, write(local, ROWS), FIELDS, batch_rows=16)))


def read(paths: list[str], cache: FileCache | None = None) -> list[Batch]:
    return list(stream_batches(BLOCKS, paths, FIELDS, batch_rows=16, cache=cache))


def test_the_stream_reads_each_object_once_and_as_from_a_disk(
    paths: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    batches = read(paths)
    assert numbers(batches) == local_numbers(tmp_path)
    assert batches[0].files_of is not None
    assert set(batches[0].files_of()) <= {paths[index] for index in (3, 0, 1)}
    objects = [line for line in requests(caplog) if line.startswith("GET")]
    assert len(objects) == len(set(objects)) == len(paths)


def test_with_a_cache_the_store_may_go_after_the_first_epoch(
    store: ObjectStore, paths: list[str], tmp_path: Path
) -> None:
    cache = FileCache(CacheConfig(path=str(tmp_path / "cache")), manifest())
    first = numbers(read(paths, cache))
    store.server.stop()
    assert numbers(read(paths, cache)) == first == local_numbers(tmp_path)


def test_a_missing_object_is_named(paths: list[str]) -> None:
    fs, _ = storage.filesystem(paths[1])
    fs.rm_file(paths[1])
    with pytest.raises(DataError, match=f"{re.escape(paths[1])}.* is not there"):
        read(paths)


def test_a_store_that_is_down_is_a_failure_of_the_run(
    store: ObjectStore, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is asked again and again, for 10 seconds; that is s3fs's affair.
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    store.server.stop()
    with pytest.raises(RunError, match=r"s3://lake.* could not be opened"):
        read(paths)


def publish(final: str, files: dict[str, str]) -> None:
    with publishing.staged_directory(final, overwrite=True, proof="mark") as staging:
        assert staging.startswith(f"{final.rpartition('/')[0]}/.")  # with the scheme as given
        for name, text in files.items():
            storage.write_text(f"{staging}/{name}", text)


def content(directory: str) -> dict[str, str]:
    fs, plain = storage.filesystem(directory)
    names = [path.removeprefix(f"{plain}/") for path in fs.find(plain)]
    return {name: storage.read_text(f"{directory}/{name}") for name in names}


@pytest.mark.parametrize("scheme", ["s3", "s3a"])  # Hadoop knows the latter alone
def test_a_directory_is_published_and_replaced(store: ObjectStore, scheme: str) -> None:
    """There are no directories to rename: every object moves, also those of the old one."""
    many = {f"train/{number}": str(number) for number in range(12)}
    for files in ({"mark": "old", "gone": "x"}, {"mark": "new", **many}):
        publish(f"{scheme}://lake/out", files)
        assert content("s3://lake/out") == files
        assert content("s3://lake") == {f"out/{name}": text for name, text in files.items()}


def test_a_failure_leaves_the_published_one(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails while the new one takes its place."""
    publish("s3://lake/out", {"mark": "old", "part": "x"})
    move, moved = storage.move_directory, []

    def fail_second(fs: object, source: str, target: str, proof: str) -> None:
        moved.append(target)
        if len(moved) == 2:
            raise OSError("the store is down")
        move(fs, source, target, proof)

    monkeypatch.setattr(storage, "move_directory", fail_second)
    with pytest.raises(OSError, match="the store is down"):
        publish("s3://lake/out", {"mark": "new"})
    assert content("s3://lake") == {"out/mark": "old", "out/part": "x"}


def test_a_run_killed_at_any_request_leaves_whole_scores(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest speaks of files that are there, and the next run publishes."""
    call = s3fs.S3FileSystem._call_s3
    config, ds = score_config("s3://lake/scores"), "2026-01-05"
    left = 0

    async def fail_at_last(self: object, *args: object, **kwargs: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("killed")
        return await call(self, *args, **kwargs)

    def scores() -> list[tuple[int, float]] | None:
        manifest = manifest_of(config, ds)
        fs, plain = storage.filesystem(f"s3://lake/scores/ds={ds}")
        names = [file.path for file in manifest.files] if manifest else []
        tables = [
            pq.read_table(f"{plain}/{name}", filesystem=fs, partitioning=None) for name in names
        ]
        rows = [row for table in tables for row in table.to_pylist()]
        return [(row["user"], row["score"]) for row in rows] if manifest else None

    before, outcomes = None, set()
    for requests_done in range(0, 40, 4):
        rows = [(requests_done, 0.5), (1, 0.25)]
        with publication(None, config, ds, f"run-{requests_done}") as published:
            names = [
                write_scores(published.directory, published.directory[-3:], [row]) for row in rows
            ]
            manifest = manifest_for(published.directory, names, ds, f"run-{requests_done}")
            left = requests_done
            with monkeypatch.context() as patched:
                patched.setattr(s3fs.S3FileSystem, "_call_s3", fail_at_last)
                with contextlib.suppress(RuntimeError):
                    published.commit(manifest)
        found = scores()
        assert found in (before, rows)
        outcomes.add(found == rows)
        before = found
    assert outcomes == {False, True}
    publish_scores(None, config, ds, "last", [(7, 0.5)])
    assert scores() == [(7, 0.5)]
    assert vacuum(config, 1, dry_run=False) == []  # of a run at work, for all that it knows
    assert vacuum(config, 0, dry_run=False) != []
    assert scores() == [(7, 0.5)]
    fs, _ = storage.filesystem("s3://lake")
    assert len(fs.find("lake")) == 2  # the manifest and its file


@pytest.mark.parametrize("moment", ["it moves its files", "it writes its manifest"])
def test_another_run_publishes_the_same_day_while(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """There are no locks. One is published, whole."""
    config, ds = score_config("s3://lake/scores"), "2026-01-05"
    step = (storage, "move_files") if "moves" in moment else (parquet, "write_partition_manifest")
    take = getattr(*step)
    others: list[PartitionManifest] = []

    def take_late(*arguments: object) -> None:
        if moment == "it moves its files":
            take(*arguments)
        monkeypatch.setattr(*step, take)
        others.append(publish_scores(None, config, ds, "other", [(1, 0.25)]))
        if moment != "it moves its files":
            take(*arguments)

    publish_scores(None, config, ds, "before", [(0, 0.5)])
    with publication(None, config, ds, "late") as late:
        monkeypatch.setattr(*step, take_late)
        if moment == "it moves its files":
            with pytest.raises(RunError, match=r"another run published .* meanwhile"):
                commit(late, ds, "late", [(2, 0.75)])
            published = others[0]
        else:
            published = commit(late, ds, "late", [(2, 0.75)])
    assert manifest_of(config, ds) == published
    names = {path.rpartition("/")[2] for path in storage.filesystem("s3://lake")[0].find("lake")}
    assert names >= {"_manifest.json", published.files[0].path}
    assert len(names) == (2 if moment == "it moves its files" else 3)
