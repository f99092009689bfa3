"""Two generated tables of implicit feedback, of the shapes that the NFM paper has.

``usage`` is in the manner of Frappe: users who come back to the same apps again and again, and
which one depends on where they are and when. ``tags`` is in the manner of MovieLens's tags: each
triple of user, movie and tag comes once, and most features are rare. Numbers of users, items and
values are those of He & Chua (2017, sec. 5.1); rows are fewer for tags. Both hold positives only:
conf/reproduce/usage.yaml and tags.yaml draw the others.

Example:
    python -m benchmarks.usage --out build/usage/raw
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conf import publishing

Array = npt.NDArray[Any]

FILE = "part-0.parquet"
_TRAITS = 6


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the raw tables")
    out: Path = parser.parse_args().out
    for name, table in TABLES.items():
        with publishing.staged_directory(f"{out}/{name}", overwrite=True, proof=FILE) as staging:
            pq.write_table(table(), f"{staging}/{FILE}", row_group_size=20_000)
        print(f"{out}/{name}")


def usage(rows: int = 96_203, users: int = 957, apps: int = 4082) -> pa.Table:
    """Uses of apps: user, app, where and when."""
    rng = np.random.default_rng(1)
    taste_UT, nature_AT = rng.normal(size=(users, _TRAITS)), rng.normal(size=(apps, _TRAITS))
    popular_A = -0.8 * np.log(1 + rng.permutation(apps))
    user_n = rng.choice(users, rows, p=_zipf(users, 0.7))
    contexts = {"daytime": 7, "weekday": 7, "homework": 3, "cost": 2, "weather": 9}
    values = {name: rng.choice(size, rows, p=_zipf(size, 0.5)) for name, size in contexts.items()}
    asks_nT = sum(
        rng.normal(scale=0.6, size=(size, _TRAITS))[values[name]] for name, size in contexts.items()
    )
    app_n = np.empty(rows, np.int64)
    for user in range(users):
        mine = np.flatnonzero(user_n == user)
        own = rng.gumbel(size=apps) + 0.8 * nature_AT @ taste_UT[user] + popular_A
        favourites = np.argsort(-own)[: rng.integers(5, 40)]
        likes_nA = 0.7 * asks_nT[mine] @ nature_AT[favourites].T - np.log(
            1 + np.arange(len(favourites))
        )
        app_n[mine] = favourites[np.argmax(likes_nA + rng.gumbel(size=likes_nA.shape), axis=1)]
    country_U = rng.choice(80, users, p=_zipf(80, 1.2))
    city_U = (country_U * 3 + rng.integers(0, 3, users)) % 233
    columns = {"user": user_n, "app": app_n, **values}
    columns["weekend"] = values["weekday"] >= 5
    columns |= {"country": country_U[user_n], "city": city_U[user_n]}
    return _table(columns)


def tags(
    rows: int = 200_000, users: int = 17_045, movies: int = 23_743, size: int = 49_657
) -> pa.Table:
    """Tags that users gave to movies: user, movie, tag; no triple twice."""
    rng = np.random.default_rng(2)
    topics = 60
    topic_M, topic_G = rng.integers(topics, size=movies), rng.integers(topics, size=size)
    user_n = rng.choice(users, rows, p=_zipf(users, 0.9))
    # A user watches what belongs to a few topics.
    topics_U3 = rng.integers(topics, size=(users, 3))
    topic_n = topics_U3[user_n, rng.integers(3, size=rows)]
    movie_n = _of_topic(rng, topic_M, topic_n, 0.9)
    # A tag is the movie's, or one of the user's own.
    own_n = rng.random(rows) < 0.4
    tag_n = _of_topic(rng, topic_G, topic_M[movie_n], 1.0)
    tag_n[own_n] = (user_n[own_n] * 7919 + rng.geometric(0.3, own_n.sum())) % size
    triples = np.unique(np.stack([user_n, movie_n, tag_n], axis=1), axis=0)
    return _table(dict(zip(("user", "movie", "tag"), rng.permutation(triples).T, strict=True)))


TABLES: dict[str, Callable[[], pa.Table]] = {"usage": usage, "tags": tags}


def _zipf(size: int, exponent: float) -> Array:
    weights = np.arange(1, size + 1.0) ** -exponent
    return weights / weights.sum()


def _of_topic(rng: np.random.Generator, topic_of: Array, topic_n: Array, exponent: float) -> Array:
    """For each wanted topic one of its members, the first ones more often."""
    members = np.argsort(topic_of, kind="stable")
    starts = np.searchsorted(topic_of[members], np.arange(topic_of.max() + 2))
    count_n = np.diff(starts)[topic_n]
    # The inverse of a power law's distribution, cut at the number of members.
    rank_n = np.floor((count_n + 1.0) ** (rng.random(len(topic_n)) ** (1 / exponent))) - 1
    return members[starts[topic_n] + np.minimum(rank_n, count_n - 1).astype(np.int64)]


def _table(columns: dict[str, Array]) -> pa.Table:
    texts = {name: pa.array(values.astype(str)) for name, values in columns.items()}
    rows = len(next(iter(columns.values())))
    return pa.table(
        texts | {"used": pa.array(np.ones(rows, np.int32)), "row": pa.array(range(rows))}
    )


if __name__ == "__main__":
    main()
