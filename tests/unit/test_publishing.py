import errno
import multiprocessing
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conf import publishing, storage
from conf.errors import ConfigError, RunError
from conf.publishing import staged_directory


def test_a_staged_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "out"
    for text in ("old", "new"):
        with staged_directory(str(final), overwrite=True, proof="mark") as staging:
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
        with staged_directory(str(final), overwrite=True, proof="mark") as staging:
            storage.write_text(f"{staging}/new.txt", "half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert (final / "old.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_task_that_writes_on_leaves_nothing(tmp_path: Path) -> None:
    """As one that was cancelled may do, until its process is gone."""

    def write_on(staging: str) -> None:
        for number in range(100_000):
            Path(staging, f"part-{number}").touch()

    for _ in range(20):
        with ThreadPoolExecutor(1) as task:
            with publishing.scratch_directory(f"{tmp_path}/out") as staging:
                late = task.submit(write_on, staging)
                while len(os.listdir(staging)) < 10:
                    time.sleep(0.001)
            with pytest.raises(FileNotFoundError):
                late.result()
        assert not os.listdir(tmp_path)


def test_what_cannot_be_removed_hides_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, _ = storage.filesystem(str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTEMPTY, "directory not empty")

    monkeypatch.setattr(type(fs), "rm", refuse)
    with (
        pytest.raises(ValueError, match="the reason"),
        staged_directory(f"{tmp_path}/out", overwrite=True, proof="mark"),
    ):
        raise ValueError("the reason")


@pytest.mark.parametrize("step", ["rename", "renameat2", "second rename"])
def test_a_failure_while_publishing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    final = tmp_path / "out"
    final.mkdir()
    (final / "mark").write_text("old")

    def interrupt(*_: object, **__: object) -> None:
        monkeypatch.undo()  # once
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
        monkeypatch.setattr(publishing, "_exchange", interrupt)
    else:
        monkeypatch.setattr(publishing, "_exchange", lambda one, other: False)
        monkeypatch.setattr(type(fs), "mv", interrupt_second)

    def publish() -> None:
        with staged_directory(str(final), overwrite=True, proof="mark") as staging:
            storage.write_text(f"{staging}/mark", "new")
            moved.clear()

    with pytest.raises(KeyboardInterrupt):
        publish()
    assert (final / "mark").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_replacing_works_without_an_atomic_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_exchange", lambda one, other: False)
    for text in ("old", "new"):
        with staged_directory(f"{tmp_path}/out", overwrite=True, proof="mark") as staging:
            storage.write_text(f"{staging}/mark", text)
    assert (tmp_path / "out/mark").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def write(directory: Path, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "mark").write_text(text)


@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_what_is_published_meanwhile_is_not_replaced(tmp_path: Path, earlier: str | None) -> None:
    """By a run that no lock keeps out: on another store, or of an earlier release."""
    final = tmp_path / "out"
    if earlier:
        write(final, earlier)

    def publish() -> None:
        with staged_directory(str(final), overwrite=bool(earlier), proof="mark") as staging:
            write(Path(staging), "mine")
            write(final, "theirs")

    with pytest.raises(RunError, match=r"another run published '.*/out' meanwhile"):
        publish()
    assert (final / "mark").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_appears_meanwhile_and_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    final = tmp_path / "out"

    def publish() -> None:
        with staged_directory(str(final), overwrite=True, proof="mark"):
            final.mkdir()
            (final / "precious.txt").touch()

    with pytest.raises(ConfigError, match="holds no mark"):
        publish()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_runs_at_once_one_wins_and_the_others_say_so(tmp_path: Path, overwrite: bool) -> None:
    final = tmp_path / "out"
    if overwrite:
        write(final, "earlier")
    start, refused = threading.Barrier(8), []

    def publish(number: int) -> None:
        start.wait()
        try:
            with staged_directory(str(final), overwrite=overwrite, proof="mark") as staging:
                write(Path(staging), str(number))
                deadline = time.monotonic() + 30
                while len(refused) < 7 and time.monotonic() < deadline:
                    time.sleep(0.01)
        except RunError as error:
            refused.append((number, str(error)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(8)))
    (winner,) = {*range(8)} - {number for number, _ in refused}
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    message = re.compile(rf"another run \(({holder}|just started)\) is writing '{final}': it goes")
    assert all(message.match(error) for _, error in refused)
    assert (final / "mark").read_text() == str(winner)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def publish_and_die(final: str, moment: str) -> None:
    """Stands for kill -9: nothing of ours runs after it."""
    fs, _ = storage.filesystem(final)
    move, moved = type(fs).mv, []

    def die(*_: object, **__: object) -> bool:
        os._exit(9)

    def die_second(self: object, *names: str, **options: object) -> None:
        moved.append(names)
        move(self, *names, **options) if len(moved) == 1 else die()

    if moment == "between two renames":
        publishing._exchange = lambda one, other: False
        type(fs).mv = die_second
    elif moment == "before the swap":
        publishing._exchange = die
    elif moment == "after the swap":
        type(fs).rm = die
    with staged_directory(final, overwrite=True, proof="mark") as staging:
        write(Path(staging), "killed")
        if moment == "while it writes":
            die()


@pytest.mark.parametrize(
    ("moment", "current"),
    [
        ("while it writes", "earlier"),
        ("before the swap", "earlier"),
        ("after the swap", "killed"),
        ("between two renames", None),
    ],
)
def test_the_next_run_clears_what_a_killed_one_left(
    tmp_path: Path, moment: str, current: str | None
) -> None:
    final = tmp_path / "out"
    write(final, "earlier")
    others = {".out.staging-x", ".out.d.staging-01234567", "out.staging-01234567"}
    for name in others:
        (tmp_path / name).mkdir()
    killed = multiprocessing.get_context("fork").Process(
        target=publish_and_die, args=(str(final), moment)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    assert (final / "mark").read_text() == current if current else not final.exists()
    assert {path.name for path in tmp_path.iterdir()} > others | {".out.lock"}
    with staged_directory(str(final), overwrite=True, proof="mark") as staging:
        assert (final / "mark").read_text() == (current or "earlier")
        assert {path.name for path in tmp_path.iterdir()} == others | {
            "out",
            ".out.lock",
            Path(staging).name,
        }
        write(Path(staging), "next")
    assert (final / "mark").read_text() == "next"
    assert {path.name for path in tmp_path.iterdir()} == others | {"out"}


def test_without_locks_nothing_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    left = tmp_path / ".out.staging-01234567"
    left.mkdir()
    with staged_directory(f"{tmp_path}/out", overwrite=True, proof="mark") as staging:
        write(Path(staging), "new")
    assert {path.name for path in tmp_path.iterdir()} == {"out", left.name}


@pytest.mark.parametrize(
    ("overwrite", "message"), [(False, "exists; say --overwrite"), (True, "holds no mark")]
)
def test_what_exists_is_replaced_only_if_asked_for_and_ours(
    tmp_path: Path, overwrite: bool, message: str
) -> None:
    (tmp_path / "precious.txt").touch()
    with (
        pytest.raises(ConfigError, match=message),
        staged_directory(str(tmp_path), overwrite=overwrite, proof="mark"),
    ):
        pytest.fail("must not get here")


def test_relative_paths_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with staged_directory("a/b", overwrite=False, proof="mark") as staging:
        storage.write_text(f"{staging}/x", "1")
    assert storage.read_text("a/b/x") == "1"
