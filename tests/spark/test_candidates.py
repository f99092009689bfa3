"""Candidates against the cross product, made by hand."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from conf.errors import ConfigError, DataError
from conf.manifest import Manifest
from conf.raw import RawConfig
from conf.schema import Config
from feature_eng import candidates
from feature_eng.build import build_features
from feature_eng.candidates import Candidates, PairEncoder, find_candidates, save_items
from feature_eng.scoring import Encoder, canonical_score_rows, rows_of_day, write_indices
from feature_eng.shipped import Shipped
from feature_eng.vocabulary import read_vocabulary
from jobs.serving import Served
from tests.data import DS, make_config, raw_table, write_raw

OF_USERS, OF_ITEMS = ["user", "device", "age"], ["item", "price", "tags"]


@pytest.fixture(scope="module")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Manifest]:
    root = tmp_path_factory.mktemp("candidates")
    table = raw_table(400)
    write_raw(root / "raw", table)
    write_raw(root / "tonight" / f"ds={DS}", table.select([*OF_USERS, "seen_at"]).slice(0, 60))
    write_raw(root / "items", table.select(OF_ITEMS).slice(0, 90))
    days = pa.array([DS, "2026-12-31"] * (len(table) // 2))  # the second is still to come
    write_raw(root / "seen", table.select(["user", "item"]).append_column("ds", days))
    tables = f"items: {{path: {root}/items}}, seen: {{path: {root}/seen}}"
    config = make_config(root, f"score.candidates={{user: [user], item: [item], {tables}}}")
    return config, build_features(spark, config, overwrite=False)


def test_every_pair_that_was_not_seen(
    spark: SparkSession,
    built: tuple[Config, Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, manifest = built
    raw = rows_of_day(spark, config.score, DS)
    found = find_candidates(raw, config.score, manifest.fields, manifest.keys, DS)
    assert [field.name for field in found.user_fields] == OF_USERS
    assert [field.name for field in found.item_fields] == OF_ITEMS
    vocabulary = read_vocabulary(spark, config.features.path)
    write_indices(vocabulary, manifest.fields, str(tmp_path))
    save_items(found.items, str(tmp_path))
    shipped = Shipped(str(tmp_path), shared=True)
    encoder = PairEncoder(
        Encoder(found.user_fields, shipped), Encoder(found.item_fields, shipped), shipped
    )
    users = found.users.toArrow()
    whole: list[dict[str, Any]] = []
    for rows in (16_384, 100, 7):  # of a block: several users, a few items of one
        monkeypatch.setattr(candidates, "_BLOCK_ROWS", rows)
        blocks = list(encoder(users))
        assert all(len(block.columns["user"]) <= rows for block in blocks)
        pairs = [pair for block in blocks for pair in rows_of(block)]
        assert len(pairs) == found.pairs
        whole = whole or pairs
        assert pairs == whole
    listed = pq.read_table(config.score.raw.path + f"/ds={DS}")["user"].unique().to_pylist()
    items = pq.read_table(config.score.candidates.items.path)["item"].unique().to_pylist()
    seen = pq.read_table(config.score.candidates.seen.path).to_pylist()
    known = {(row["user"], row["item"]) for row in seen if row["ds"] == DS}
    expected = {(u, i) for u in listed for i in items} - known
    assert {(pair["user"], pair["item"]) for pair in whole} == expected
    assert len(expected) == len(whole) < len(listed) * len(items)
    assert len(np.unique(np.concatenate([block.key_hashes for block in blocks]))) == len(whole)
    check_sides(encoder, users, whole)


def rows_of(block: Any) -> list[dict[str, Any]]:
    ids = {f"id of {name}": column.tolist() for name, column in block.columns.items()}
    nulls = {f"no {name}": column.tolist() for name, column in block.nulls.items()}
    return pa.table({**block.kept, **ids, **nulls}).to_pylist()


def check_sides(encoder: PairEncoder, users: pa.Table, pairs: list[dict[str, Any]]) -> None:
    """What a pair holds of its user and item is what each has by itself."""
    (of_users,) = encoder.user_encoder(users)
    with pa.memory_map(f"{encoder.items.path()}/items.arrow") as file:
        (of_items,) = encoder.item_encoder(pa.ipc.open_file(file).read_all())
    for side, key in ((of_users, "user"), (of_items, "item")):
        alone = {row[key]: row for row in rows_of(side)}
        for pair in pairs:
            own = alone[pair[key]]
            assert own == {name: pair[name] for name in own}


def interactions(
    spark: SparkSession, config: Config, shared: dict[str, str], **changes: Any
) -> tuple[DataFrame, DataFrame, Any]:
    """A row of each user with the item that he saw, a row of each item, and how they are paired."""
    raw = spark.read.parquet(config.raw.path)
    items = raw.select(*OF_ITEMS).dropDuplicates(["item"]).toArrow()
    path = f"{config.raw.path}-{uuid.uuid4().hex}"
    write_raw(Path(path), items)
    update = {"seen": None, "shared": shared, "items": RawConfig(path=path)}
    wanted = config.score.candidates.model_copy(update=update)
    users = spark.createDataFrame(raw.dropDuplicates(["user"]).toArrow())
    score = config.score.model_copy(update={"candidates": wanted, **changes})
    return users, spark.createDataFrame(items), score


def test_interactions_as_users_have_the_items_of_their_pairs(
    spark: SparkSession, built: tuple[Config, Manifest], tmp_path: Path
) -> None:
    """Each user's row with an item of its own, against each pair written down as a row."""
    config, manifest = built
    shared, kept = {"price": "item", "Tags": "item"}, ["price", "age"]
    users, items, score = interactions(spark, config, shared, columns=kept)
    found = find_candidates(users, score, manifest.fields, manifest.keys, DS)
    write_indices(read_vocabulary(spark, config.features.path), manifest.fields, str(tmp_path))
    save_items(found.items, str(tmp_path))
    shipped = Shipped(str(tmp_path), shared=True)
    encoder = PairEncoder(
        Encoder(found.user_fields, shipped), Encoder(found.item_fields, shipped), shipped
    )
    pairs = [pair for block in encoder(found.users.toArrow()) for pair in rows_of(block)]
    written = users.select(*OF_USERS).crossJoin(items)
    rows = canonical_score_rows(written, manifest.fields, manifest.keys, kept)
    (block,) = Encoder(manifest.fields, shipped)(rows.toArrow())
    assert len({pair["id of item"] for pair in pairs}) > 30
    assert sorted(map(by_name, pairs)) == sorted(map(by_name, rows_of(block)))


def by_name(row: dict[str, Any]) -> str:
    return repr(sorted(row.items()))


def test_what_is_not_of_one_side(spark: SparkSession, built: tuple[Config, Manifest]) -> None:
    """Refused, also where a table has the columns of the other."""
    config, manifest = built

    def find(shared: dict[str, str], *sources: str, **changes: Any) -> Candidates:
        users, _, score = interactions(spark, config, shared, **changes)
        fields = [
            manifest.fields[0].model_copy(update={"name": name, "source": source, "is_expr": True})
            for name, source in zip(("user", "second", "third"), sources, strict=False)
        ]
        return find_candidates(users, score, fields, manifest.keys, DS)

    told = r"'user': '.*' needs columns of the users and of the items.*crosses of both cannot"
    for cross in ("concat(user, Item)", "concat(device, tags[0])"):
        with pytest.raises(ConfigError, match=told):
            find({"tags": "item"}, cross, optional=["user"])
    unclear = r"both have {} \(wanted by {}\).*shared: {{{}}}, or user for item"
    for source, names in (("string(price)", "price"), ("concat(price, tags)", "price, tags")):
        each = ", ".join(f"{name}: item" for name in names.split(", "))
        with pytest.raises(ConfigError, match=unclear.format(names, "field 'user'", each)):
            find({}, source, optional=["user"])
    with pytest.raises(ConfigError, match=unclear.format("price", ".*columns", "price: item")):
        find({}, columns=["price"])
    with pytest.raises(ConfigError, match=r"'item' is no column of the users.*name one of user"):
        find({}, by="item", top_k=3)
    found = find({"price": "user", "tags": "item"}, "string(price + age)", "tags[0]", "user")
    assert [field.source for field in found.user_fields] == ["string(price + age)", "user"]
    assert [field.source for field in found.item_fields] == ["tags[0]"]
    with pytest.raises(DataError, match=r"'color' does not fit"):
        find({}, "color")


def test_of_several_rows_always_the_same_one_counts(
    spark: SparkSession, built: tuple[Config, Manifest]
) -> None:
    """Whichever comes first; values that differ in their columns alone, and maps, among them."""
    config, manifest = built
    alone = config.score.candidates.model_copy(update={"seen": None})
    score = config.score.model_copy(update={"columns": ["note"], "candidates": alone})
    several = [("a", None), (None, "a"), (None, None), ("b", "a"), ("a", "b"), (None, "b")]
    rows = [
        {"user": f"u{n}", "device": device, "age": 30, "note": note, "other": [("n", n)]}
        for n in range(9)
        for device, note in several
    ]
    types = {"device": pa.string(), "age": pa.int32(), "note": pa.string()}
    schema = pa.schema({"user": pa.string(), **types, "other": pa.map_(pa.string(), pa.int32())})
    served = Served(Shipped("bundle", shared=True), Shipped("values", shared=True))
    kept, shipped = [], []
    for ordered in (rows, rows[::-1]):
        raw = spark.createDataFrame(pa.Table.from_pylist(ordered, schema)).coalesce(1)
        found = find_candidates(raw, score, manifest.fields, manifest.keys, DS)
        kept.append(sorted(map(str, found.users.drop("_seen").collect())))
        encoder = served.pair_encoder(spark, found.items, found.user_fields, found.item_fields)
        shipped.append(encoder.items)
    assert len(kept[0]) == 9
    assert kept[0] == kept[1]
    assert len({row.partition("note=")[2] for row in kept[0]}) > 1, "of all kinds"
    assert shipped[0] == shipped[1], "the same items are shipped once"
    fewer = served.pair_encoder(spark, found.items.slice(1), found.user_fields, found.item_fields)
    assert fewer.items != shipped[0]


def test_what_is_no_candidate(spark: SparkSession, built: tuple[Config, Manifest]) -> None:
    config, manifest = built
    raw = rows_of_day(spark, config.score, DS)
    score = config.score

    def find(changed: Any, users: Any = raw) -> None:
        find_candidates(users, changed, manifest.fields, manifest.keys, DS)

    with pytest.raises(ConfigError, match=r"needs score\.candidates, which names the items"):
        find(score.model_copy(update={"candidates": None}))
    with pytest.raises(ConfigError, match=r"score\.by: 'item' is no column of the users"):
        find(score.model_copy(update={"by": "item", "top_k": 3}))
    with pytest.raises(DataError, match=r"column 'user' \(wanted by 'candidates.user'\)"):
        find(score, raw.drop("user"))
    with pytest.raises(DataError, match=r"column 'device' \(wanted by 'device'\)"):
        find(score, raw.drop("device"))
