"""Both layouts of MovieLens-100K, in miniature, give the same tables."""

from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import movielens100k
from benchmarks.movielens100k import CANDIDATE_USERS, GENRES, join, read_copy

RECBOLE = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "1\t10\t5\t881250949\n2\t10\t3\t891717742\n2\t20\t4\t878887116\n",
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\tT8H1N\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "10\tToy Story\t1995\tAnimation Children's Comedy\n20\tunknown\t\tunknown\n",
}


def flags(*on: str) -> str:
    return "|".join("1" if genre in on else "0" for genre in GENRES)


GROUPLENS = {
    "u.data": "1\t10\t5\t881250949\n2\t10\t3\t891717742\n2\t20\t4\t878887116\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|T8H1N\n",
    "u.item": f"10|Toy Story|01-Jan-1995||url|{flags('Animation', GENRES[4], 'Comedy')}\n"
    f"20|unknown|||url|{flags('unknown')}\n",
}


def tables(folder: Path, files: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="latin-1")
    return join(*read_copy(folder))


def test_both_layouts_give_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = {name: sha256(text.encode()).hexdigest() for name, text in RECBOLE.items()}
    monkeypatch.setattr(movielens100k, "SHA256", sums)
    recbole, grouplens = tables(tmp_path / "r", RECBOLE), tables(tmp_path / "g", GROUPLENS)
    for ours, theirs in zip(recbole, grouplens, strict=True):
        columns = sorted(ours.columns)
        pd.testing.assert_frame_equal(ours[columns], theirs[columns], check_dtype=False)
    ratings, candidates = recbole
    assert ratings["rating"].tolist() == [5, 3, 4]
    assert ratings["genres"].tolist()[0] == ["Animation", "Children's", "Comedy"]
    assert ratings["release_year"].isna().tolist() == [False, False, True]
    assert str(ratings["timestamp"][0]) == "1997-12-04 15:55:49+00:00"
    assert candidates[["user_id", "item_id"]].to_numpy().tolist() == [["1", "20"]]
    assert CANDIDATE_USERS == 100


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ml-100k.inter has sha256 .*: not used"):
        tables(tmp_path / "r", RECBOLE)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds neither"):
        read_copy(tmp_path)
