"""MovieLens-100K as the raw tables of the demo.

Writes ``<out>/ratings`` (100,000 rows, one per rating, users and items joined in) and
``<out>/candidates/ds=1998-04-23`` (the pairs that 100 users have not rated, to be scored the day
after the last rating). The data come from the RecBole wheel, or from a copy the user has, and are
never stored in the repository: GroupLens allows research use and no redistribution.

Example:
    python -m benchmarks.movielens100k --out build/demo/raw [--from ~/data/ml-100k]
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from conf import publishing

WHEEL = "recbole==1.2.1"
FOLDER = "recbole/dataset_example/ml-100k"
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
# The flag columns of u.item, in their order (GroupLens's u.genre).
_GENRES = """unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy
Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"""
GENRES = _GENRES.split()
FILE = "part-0.parquet"
DS = "1998-04-23"
ROWS = (100_000, 943, 1682)
CANDIDATE_USERS = 100
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("rating", pa.int32()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("age", pa.int32()),
        ("gender", pa.string()),
        ("occupation", pa.string()),
        ("zip_code", pa.string()),
        ("release_year", pa.int32()),
        ("genres", pa.list_(pa.string())),
    ]
)


def main() -> None:
    """Fetch or take the files, join them and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the raw tables")
    parser.add_argument("--from", type=Path, dest="source", help="a copy of ml-100k you have")
    arguments = parser.parse_args()
    if arguments.source:
        tables = read_copy(arguments.source.expanduser())
    else:
        with tempfile.TemporaryDirectory() as folder:
            tables = read_copy(fetch(Path(folder)))
    found = tuple(len(table) for table in tables)
    if found != ROWS:
        sys.exit(f"{found} ratings, users and items, expected {ROWS}: not the whole MovieLens-100K")
    ratings, candidates = join(*tables)
    _write(ratings, arguments.out / "ratings", SCHEMA)
    unrated = SCHEMA.remove(SCHEMA.get_field_index("rating"))
    _write(candidates, arguments.out / "candidates" / f"ds={DS}", unrated)
    print(f"{len(ratings):,} ratings and {len(candidates):,} candidates in {arguments.out}")


def fetch(folder: Path) -> Path:
    """Download the wheel with pip and unpack its three files into ``folder``."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
    subprocess.run([*command, "--dest", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in SHA256:
            (folder / name).write_bytes(archive.read(f"{FOLDER}/{name}"))
    return folder


def read_copy(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Ratings, users and items from either layout, with the columns of ``SCHEMA``."""
    if (folder / "ml-100k.inter").exists():
        _verify(folder)
        return _read_recbole(folder)
    if (folder / "u.data").exists():
        return _read_grouplens(folder)
    sys.exit(f"'{folder}' holds neither ml-100k.inter/.user/.item nor u.data/u.user/u.item")


def join(
    ratings: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ratings with their users and items, and the unrated pairs of the first users."""
    ratings = ratings.assign(timestamp=pd.to_datetime(ratings["timestamp"], unit="s", utc=True))
    full = ratings.merge(users, how="left", on="user_id", validate="m:1").merge(
        items, how="left", on="item_id", validate="m:1"
    )
    first = users.iloc[users["user_id"].astype(int).argsort()[:CANDIDATE_USERS]]
    pairs = first.merge(items, how="cross")
    rated = pd.MultiIndex.from_frame(ratings[["user_id", "item_id"]])
    unrated = ~pd.MultiIndex.from_frame(pairs[["user_id", "item_id"]]).isin(rated)
    noon = pd.Timestamp(f"{DS}T12:00:00Z")
    return full, pairs[unrated].assign(timestamp=noon)


def _verify(folder: Path) -> None:
    for name, expected in SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            sys.exit(f"{folder / name} has sha256 {found}, expected {expected}: not used")


def _read_recbole(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    def table(suffix: str) -> pd.DataFrame:
        frame = pd.read_csv(
            folder / f"ml-100k.{suffix}", sep="\t", dtype=str, keep_default_na=False
        )
        return frame.rename(columns=lambda name: name.partition(":")[0])

    ratings = table("inter").astype({"rating": float, "timestamp": float})
    items = table("item").rename(columns={"class": "genres"})
    items["genres"] = items["genres"].str.split()
    items["release_year"] = pd.to_numeric(items["release_year"], errors="coerce")
    users = table("user").astype({"age": int})
    return ratings.astype({"rating": int}), users, items.drop(columns="movie_title")


def _read_grouplens(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    def table(name: str, sep: str, columns: list[str]) -> pd.DataFrame:
        return pd.read_csv(
            folder / name,
            sep=sep,
            names=columns,
            dtype=str,
            encoding="latin-1",
            keep_default_na=False,
        )

    ratings = table("u.data", "\t", ["user_id", "item_id", "rating", "timestamp"])
    users = table("u.user", "|", ["user_id", "age", "gender", "occupation", "zip_code"])
    items = table("u.item", "|", ["item_id", "title", "date", "video", "url", *GENRES])
    items["release_year"] = pd.to_numeric(items["date"].str[-4:], errors="coerce")
    flags = items[GENRES].to_numpy() == "1"
    items["genres"] = [[g for g, on in zip(GENRES, row, strict=True) if on] for row in flags]
    return (
        ratings.astype({"rating": int, "timestamp": int}),
        users.astype({"age": int}),
        items[["item_id", "release_year", "genres"]],
    )


def _write(frame: pd.DataFrame, directory: Path, schema: pa.Schema) -> None:
    """Replace the directory by one Parquet file; Spark splits it as it likes."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    with publishing.staged_directory(str(directory), overwrite=True, proof=FILE) as staging:
        pq.write_table(table, f"{staging}/{FILE}", row_group_size=20_000)


if __name__ == "__main__":
    main()
