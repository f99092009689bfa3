from pathlib import Path

import pytest

from conf import storage
from conf.errors import ConfigError


def test_a_staged_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "out"
    for text in ("old", "new"):
        with storage.staged_directory(str(final), overwrite=True) as staging:
            storage.write_text(f"{staging}/{text}.txt", text)
            assert not (final / f"{text}.txt").exists()
    assert [path.name for path in final.iterdir()] == ["new.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_directory_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    final = tmp_path / "out"
    final.mkdir()
    (final / "old.txt").write_text("old")

    def fail_half_way() -> None:
        with storage.staged_directory(str(final), overwrite=True) as staging:
            storage.write_text(f"{staging}/new.txt", "half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert (final / "old.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_existing_output_needs_overwrite(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="exists; say --overwrite"),
        storage.staged_directory(str(tmp_path), overwrite=False),
    ):
        pytest.fail("must not get here")


def test_relative_paths_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with storage.staged_directory("a/b", overwrite=False) as staging:
        storage.write_text(f"{staging}/x", "1")
    assert storage.read_text("a/b/x") == "1"
