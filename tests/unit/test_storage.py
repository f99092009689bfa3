from pathlib import Path

import pytest

from conf import storage
from conf.errors import ConfigError


def test_a_staged_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "out"
    for text in ("old", "new"):
        with storage.staged_directory(str(final), overwrite=True, proof="mark") as staging:
            storage.write_text(f"{staging}/mark", "")
            storage.write_text(f"{staging}/{text}.txt", text)
            assert not (final / f"{text}.txt").exists()
    assert sorted(path.name for path in final.iterdir()) == ["mark", "new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_directory_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    final = tmp_path / "out"
    final.mkdir()
    (final / "old.txt").write_text("old")
    (final / "mark").touch()

    def fail_half_way() -> None:
        with storage.staged_directory(str(final), overwrite=True, proof="mark") as staging:
            storage.write_text(f"{staging}/new.txt", "half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert (final / "old.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("step", ["rename", "renameat2", "second rename"])
def test_a_failure_while_publishing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    final = tmp_path / "out"
    final.mkdir()
    (final / "mark").write_text("old")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    fs, _ = storage.filesystem(str(tmp_path))
    move = type(fs).mv
    moved: list[str] = []

    def interrupt_second(self: object, source: str, target: str, **options: object) -> None:
        moved.append(source)
        if len(moved) == 2:
            raise KeyboardInterrupt
        move(fs, source, target, **options)

    if step == "rename":
        monkeypatch.setattr("os.rename", interrupt)
    elif step == "renameat2":
        monkeypatch.setattr(storage, "_exchange", interrupt)
    else:
        monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
        monkeypatch.setattr(type(fs), "mv", interrupt_second)

    def publish() -> None:
        with storage.staged_directory(str(final), overwrite=True, proof="mark") as staging:
            storage.write_text(f"{staging}/mark", "new")
            moved.clear()

    with pytest.raises(KeyboardInterrupt):
        publish()
    assert (final / "mark").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_replacing_works_without_an_atomic_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
    for text in ("old", "new"):
        with storage.staged_directory(f"{tmp_path}/out", overwrite=True, proof="mark") as staging:
            storage.write_text(f"{staging}/mark", text)
    assert (tmp_path / "out/mark").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    final = tmp_path / "out"

    def publish() -> None:
        with storage.staged_directory(str(final), overwrite=False, proof="mark") as staging:
            storage.write_text(f"{staging}/mark", "mine")
            final.mkdir()
            (final / "mark").write_text("theirs")

    with pytest.raises(ConfigError, match="exists; say --overwrite"):
        publish()
    assert (final / "mark").read_text() == "theirs"


@pytest.mark.parametrize(
    ("overwrite", "message"), [(False, "exists; say --overwrite"), (True, "holds no mark")]
)
def test_what_exists_is_replaced_only_if_asked_for_and_ours(
    tmp_path: Path, overwrite: bool, message: str
) -> None:
    (tmp_path / "precious.txt").touch()
    with (
        pytest.raises(ConfigError, match=message),
        storage.staged_directory(str(tmp_path), overwrite=overwrite, proof="mark"),
    ):
        pytest.fail("must not get here")


def test_relative_paths_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with storage.staged_directory("a/b", overwrite=False, proof="mark") as staging:
        storage.write_text(f"{staging}/x", "1")
    assert storage.read_text("a/b/x") == "1"
