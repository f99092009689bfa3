"""The build of a features directory, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from conf.errors import ConfigError, DataError
from conf.manifest import Manifest, read_manifest
from conf.schema import Config
from feature_eng.build import build_features
from feature_eng.canonical import canonical_rows
from feature_eng.fields import unfitted_specs
from feature_eng.profile import profile_rows
from tests.data import make_config, raw_table, write_raw

ROWS = 2000
TIME_SPLIT = "{kind: time, column: seen_at, valid_from: 200, test_from: 250}"


@pytest.fixture(scope="module")
def built(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Manifest, pa.Table]:
    """Of a table a fifth of whose rows share ten pairs of keys."""
    root = tmp_path_factory.mktemp("build")
    table = raw_table(ROWS)
    for key, values in (("user", ["u1", "u2"] * 200), ("item", [1, 2, 3, 4, 5] * 80)):
        table = with_column(table, key, values + table[key].to_pylist()[400:])
    write_raw(root / "raw", table)
    config = make_config(root)
    return config, build_features(spark, config, overwrite=False), table


def read_split(config: Config, split: str) -> pa.Table:
    return pq.read_table(f"{config.features.path}/{split}")


def test_the_manifest_says_what_the_files_hold(
    built: tuple[Config, Manifest, pa.Table],
) -> None:
    config, manifest, _ = built
    assert read_manifest(config.features.path) == manifest
    assert sum(split.rows for split in manifest.splits.values()) == ROWS
    for name, split in manifest.splits.items():
        footers = {
            f"{name}/{path.name}": pq.read_metadata(path)
            for path in Path(config.features.path, name).glob("*.parquet")
        }
        assert {file.path: file.rows for file in split.files} == {
            path: footer.num_rows for path, footer in footers.items()
        }
        assert {footer.num_row_groups for footer in footers.values()} == {1}
        for footer in footers.values():
            group, types = footer.row_group(0), footer.schema.to_arrow_schema()
            parts = [group.column(number) for number in range(group.num_columns)]
            assert {part.compression for part in parts} == {"ZSTD"}
            assert all(part.has_dictionary_page for part in parts)
            for one in ("user", "item", "device", "age"):
                assert types.field(one).type == pa.int32()
            assert types.field("tags").type.value_type == pa.int32()
            assert types.field("price").type == types.field("label").type == pa.float32()
        assert split.positives == sum(read_split(config, name)["label"].to_pylist())
    assert manifest.weight is None
    assert "sample_weight" not in read_split(config, "train").column_names
    assert len(manifest.splits["train"].files) == 4, "1400 rows, files of 500, 2 workers"
    rows = [file.rows for file in manifest.splits["train"].files]
    assert abs(sum(rows[::2]) - sum(rows[1::2])) < 500, "workers differ by less than a row group"
    assert max(rows) < 500
    ends = [field.offset + field.cardinality for field in manifest.fields]
    assert [field.offset for field in manifest.fields] == [0, *ends[:-1]]
    assert manifest.num_features == ends[-1]


def test_statistics_are_those_of_the_training_rows(
    built: tuple[Config, Manifest, pa.Table],
) -> None:
    config, manifest, raw = built
    encoded = read_split(config, "train").to_pandas()
    fields = {field.name: field for field in manifest.fields}
    # x = 0 stands for the mean, where the price is missing
    known = encoded["price"][encoded["price"] != 0]
    assert known.mean() == pytest.approx(0, abs=1e-5)
    assert known.std(ddof=0) == pytest.approx(1, abs=1e-5)
    shares = encoded["age"].value_counts(normalize=True)
    assert set(shares.index) == {2, 3, 4, 5}
    assert all(abs(share - 0.25) < 0.03 for share in shares)
    assert fields["age"].edges == sorted(fields["age"].edges)
    nulls = np.mean([value is None for value in raw["device"].to_pylist()])
    rates = fields["device"].missing_rate
    assert rates["train"] == pytest.approx(np.mean(encoded["device"] == 0))
    assert rates["train"] == pytest.approx(nulls, abs=0.05)
    assert fields["user"].oov_rate["train"] == 0.0


def test_nothing_is_fitted_on_other_rows_than_trainings(
    spark: SparkSession, tmp_path: Path
) -> None:
    table = raw_table(600).to_pandas()
    table["seen_at"] = np.arange(600)
    table.loc[500:, "user"] = "only later"
    table.loc[500:, "price"] = 1e9
    table.loc[499:, "item"] = 777  # once in training, and again later
    write_raw(tmp_path / "raw", pa.Table.from_pandas(table))
    cut = "{kind: time, column: seen_at, valid_from: 500, test_from: 550}"
    more = [
        "{name: by_range, column: price, kind: numeric, scale: min_max}",
        "{name: by_rank, column: price, kind: bucketised, num_buckets: 4}",
        "{name: by_power, column: price, kind: bucketised, method: log2}",
        "{name: row, column: seen_at, kind: numeric, scale: none}",
    ]
    few = "{name: user, kind: categorical}, {name: item, kind: categorical, min_count: 2}"
    few += ", {name: price, kind: numeric}"
    config = make_config(tmp_path, f"split={cut}", f"fields=[{few}, {', '.join(more)}]")
    manifest = build_features(spark, config, overwrite=False)
    fields = {field.name: field for field in manifest.fields}
    assert (manifest.splits["train"].rows, manifest.splits["test"].rows) == (500, 50)
    assert fields["user"].oov_rate == {"train": 0.0, "valid": 1.0, "test": 1.0}
    prices = table["price"][:500].astype(float)
    assert fields["price"].shift == pytest.approx(prices.mean())
    assert fields["item"].oov_rate["valid"] == fields["item"].oov_rate["test"] == 1.0
    by_range = fields["by_range"]
    assert (by_range.shift, by_range.scale) == (prices.min(), prices.max() - prices.min())
    quartiles = np.nanquantile(prices, [0.25, 0.5, 0.75], method="inverted_cdf")
    assert fields["by_rank"].edges == pytest.approx(quartiles)
    assert fields["by_power"].edges == [2.0**n for n in range(int(np.log2(prices.max())) + 1)]
    for file in manifest.splits["train"].files:  # in which rows of the whole time are mixed
        rows = pq.read_table(f"{config.features.path}/{file.path}")["row"].to_numpy()
        spread = 1 / np.sqrt(len(rows))
        assert rows.mean() == pytest.approx(249.5, abs=4 * 144 * spread)
        assert abs(np.corrcoef(rows, np.arange(len(rows)))[0, 1]) < 4 * spread


def test_the_same_rows_in_another_layout_give_the_same_features(
    spark: SparkSession, tmp_path: Path, built: tuple[Config, Manifest, pa.Table]
) -> None:
    """Also where rows share their keys."""
    config, manifest, raw = built
    order = np.random.default_rng(1).permutation(ROWS)
    write_raw(tmp_path / "raw", raw.take(order), files=5)
    again = make_config(tmp_path)
    rebuilt = build_features(spark, again, overwrite=False)
    assert rebuilt.vocabulary_fingerprint == manifest.vocabulary_fingerprint
    for split in ("train", "valid", "test"):
        assert [f.rows for f in rebuilt.splits[split].files] == [
            f.rows for f in manifest.splits[split].files
        ]
        assert read_split(again, split).equals(read_split(config, split))


def test_a_regression_has_no_positives(spark: SparkSession, tmp_path: Path) -> None:
    """And its weights stay with their rows: each row weighs a quarter of its label."""
    table = raw_table(300)
    table = table.append_column("how much", [np.asarray(table["age"]) / 4])
    write_raw(tmp_path / "raw", table)
    sets = ("task=regression", "label.column=age", "train.early_stopping.metric=rmse")
    config = make_config(tmp_path, *sets, "weight=how much")
    manifest = build_features(spark, config, overwrite=False)
    assert manifest.splits["train"].positives is None
    labels = read_split(config, "train")["label"].to_pylist()
    assert manifest.label_range == [min(labels), max(labels)]
    assert manifest.weight == "how much"
    for split in ("train", "valid", "test"):
        found = read_split(config, split)
        assert found.schema.field("sample_weight").type == pa.float32()
        labels, weights = (found[name].to_numpy() for name in ("label", "sample_weight"))
        assert 18 <= min(labels) < max(labels) < 80
        np.testing.assert_array_equal(weights, labels / 4)


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.column_names.index(name)
    return table.set_column(index, name, pa.array(values))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("empty", "raw table '.*' is empty"),
        ("null label", "label 'clicked' is null .* in 1 of 300"),
        ("one class", "label 'clicked' is 0 in every row of split '(valid|test)'"),
        ("no time", "1 of 300 rows are in none, for the column 'seen_at' is null there"),
        ("no test rows", "split 'test' has no rows of 300"),
        ("label 2", "neither 0 nor 1 in 1 of 300 rows.*set label.threshold"),
        ("constant", "label 'clicked' is 1 in every row of split 'train'"),
        ("text label", "label 'clicked' is string, expected a number"),
        ("no column", "column 'device' .* is not in the raw table"),
        ("wrong type", "'price' is string, but kind 'numeric' expects a number"),
        ("no key", "column 'user' .* is not in the raw table"),
    ],
)
def test_a_raw_table_that_breaks_the_contract_is_refused(
    spark: SparkSession, tmp_path: Path, case: str, message: str
) -> None:
    table = raw_table(300)
    changed = {
        "empty": lambda: table.slice(0, 0),
        "null label": lambda: with_column(table, "clicked", [None] + [0, 1] * 149 + [0]),
        "one class": lambda: with_column(
            with_column(table, "seen_at", [*range(300)]), "clicked", [1] * 100 + [0] * 200
        ),
        "no time": lambda: with_column(table, "seen_at", [*range(299), None]),
        "no test rows": lambda: with_column(table, "seen_at", [*range(200), *[200] * 100]),
        "label 2": lambda: with_column(table, "clicked", [2] + [0, 1] * 149 + [0]),
        "constant": lambda: with_column(table, "clicked", [1] * 300),
        "text label": lambda: with_column(table, "clicked", ["yes"] * 300),
        "no column": lambda: table.drop_columns("device"),
        "wrong type": lambda: with_column(table, "price", ["cheap"] * 300),
        "no key": lambda: table.drop_columns("user"),
    }[case]()
    write_raw(tmp_path / "raw", changed)
    by_time = case in ("one class", "no time", "no test rows")
    config = make_config(tmp_path, *([f"split={TIME_SPLIT}"] if by_time else []))
    earlier = Path(config.features.path)
    earlier.mkdir(parents=True)
    (earlier / "manifest.json").write_text("earlier")
    with pytest.raises(DataError, match=message):
        build_features(spark, config, overwrite=True)
    assert [path.name for path in earlier.parent.iterdir()] == ["v1"]
    assert (earlier / "manifest.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("kind", "weights", "message"),
    [
        ("double", "1 null NaN -Infinity 1e39 1", "null .or not finite. in 4 of 6 rows"),
        ("decimal(4,2)", "1 -1 1 -2 1 1", "negative in 2 of 6 rows, 0 or more was expected"),
        ("int", "0 0 1 1 1 1", "0 in every training row"),
        ("string", "1 1 1 1 1 1", "string, expected a number"),
        ("boolean", "1 1 1 1 1 1", "boolean, expected a number"),
    ],
)
def test_a_weight_that_is_none_is_refused(
    spark: SparkSession, tmp_path: Path, kind: str, weights: str, message: str
) -> None:
    raw = spark.range(6).selectExpr(
        "id as row",
        "cast(id % 2 as int) as y",
        "array('train', 'valid', 'test')[cast(id div 2 as int)] as part",
        f"cast(nullif(split('{weights}', ' ')[cast(id as int)], 'null') as {kind}) as w",
    )
    sets = ("keys=[row]", "label.column=y", "split={kind: column, column: part}", "weight=w")
    config = make_config(tmp_path, "fields=[{name: row, kind: categorical}]", *sets)
    with pytest.raises(DataError, match=f"weight 'w' is {message}"):
        profile_rows(canonical_rows(raw, config), config, unfitted_specs(config.fields))


def test_fields_without_any_value_are_built(spark: SparkSession, tmp_path: Path) -> None:
    table = raw_table(300)
    table = with_column(table, "device", pa.nulls(300, pa.string()))
    table = with_column(table, "price", pa.nulls(300, pa.float64()))
    table = with_column(table, "age", pa.nulls(300, pa.int32()))
    table = with_column(table, "tags", pa.nulls(300, pa.list_(pa.string())))
    write_raw(tmp_path / "raw", table)
    manifest = build_features(spark, make_config(tmp_path), overwrite=False)
    found = {field.name: field for field in manifest.fields}
    assert {n: found[n].cardinality for n in ("device", "price", "age", "tags")} == {
        "device": 2,
        "price": 1,
        "age": 3,
        "tags": 2,
    }
    assert found["device"].missing_rate["train"] == 1.0
    assert found["device"].oov_rate["train"] == 0.0


@pytest.mark.parametrize("expr", ["cast(user as int)", "sum(item)"])
def test_an_expression_that_fails_ends_the_build(
    spark: SparkSession, tmp_path: Path, expr: str
) -> None:
    write_raw(tmp_path / "raw", raw_table(100))
    config = make_config(tmp_path, f"fields.1.expr={expr}")
    with pytest.raises((DataError, PySparkException)):
        build_features(spark, config, overwrite=False)
    assert not list(tmp_path.glob("features/*"))


def test_a_raw_path_that_is_not_there_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"raw table '.*/raw' does not exist"):
        build_features(spark, make_config(tmp_path), overwrite=False)


def test_features_that_exist_need_overwrite(
    spark: SparkSession, built: tuple[Config, Manifest, pa.Table]
) -> None:
    config, manifest, _ = built
    with pytest.raises(ConfigError, match="exists; say --overwrite"):
        build_features(spark, config, overwrite=False)
    assert read_manifest(config.features.path) == manifest
