"""A vocabulary that grows night by night, against a dictionary that does the same."""

import math
import random
import shutil
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from conf.errors import ConfigError, DataError
from conf.manifest import (
    CheckResult,
    Manifest,
    SourceSpec,
    SplitSpec,
    read_manifest,
    write_manifest,
)
from conf.schema import SPLITS, Config
from feature_eng.base import read_base
from feature_eng.build import build_features
from feature_eng.fields import unfitted_specs
from feature_eng.vocabulary import read_vocabulary
from tests.data import settings, write_raw
from tests.encoding import as_if_large

MIN_COUNT, MAX_SIZE, OOV = 2, 16, 3


def night(number: int) -> pa.Table:
    """Words of a night; each night has new ones, and misses some of before."""
    rng = random.Random(number)
    words = [f"w{int(rng.paretovariate(0.7)) % 40 + 5 * number}" for _ in range(120)]
    return pa.table(
        {
            "row": pa.array(range(120), pa.int64()),
            "word": words,
            "price": pa.array([rng.gauss(number, 1) for _ in words]),
            "y": pa.array([int(i % 3 == 0) for i in range(120)], pa.int32()),
            "s": [("train", "valid", "test")[max(0, i % 10 - 7)] for i in range(120)],
            "ds": [f"2026-01-0{number}"] * 120,
        }
    )


def config(root: Path, number: int, **changed: dict[str, Any]) -> Config:
    options = {"min_count": MIN_COUNT, "max_size": MAX_SIZE, "num_oov_buckets": OOV}
    plain = settings(root) | {
        "raw": {"path": f"{root}/raw-{number}"},
        "keys": ["row"],
        "label": {"column": "y"},
        "fields": [
            field | changed.get(str(field["name"]), {})
            for field in (
                {"name": "word", "kind": "categorical"} | options,
                {"name": "price", "kind": "numeric"},
                {"name": "cost", "column": "price", "kind": "bucketised", "num_buckets": 4},
            )
        ],
        "split": {"kind": "column", "column": "s"},
        "features": {"path": f"{root}/features/v{number}", "row_group_rows": 50},
        # Nights are as different as can be, but for their rows.
        "checks": {"on_breach": "warn", "max_row_change": 0.1},
    }
    return Config.model_validate(plain)


def as_in_a_bundle(features: str, bundle: Path) -> str:
    """What a bundle holds of the features it was trained on: enough to grow from."""
    bundle.mkdir()
    shutil.copy(f"{features}/manifest.json", bundle)
    shutil.copytree(f"{features}/vocabulary", bundle / "vocabulary")
    return str(bundle)


def check_drift(
    checks: list[CheckResult], known: dict[str, int], oov: int, then: list[str], now: list[str]
) -> None:
    """Against the index over words by rank, 1, 2 to 3, 4 to 7, ..., of the base's vocabulary."""

    def shares(words: list[str]) -> dict[int, float]:
        ranks = [known[word] - oov for word in words if word in known]
        cells = Counter(int(math.log2(rank)) for rank in ranks)
        cells.update(range(-1, int(math.log2(len(known))) + 1))  # -1: missing
        return {cell: count - 0.5 for cell, count in cells.items()}

    p, q = shares(then), shares(now)
    index = sum(
        (p[c] / sum(p.values()) - q[c] / sum(q.values()))
        * math.log(p[c] / sum(p.values()) / (q[c] / sum(q.values())))
        for c in p
    )
    in_base = [sum(word in known for word in words) for words in (then, now)]
    index = max(0.0, index - (len(p) - 1) * sum(1 / rows for rows in in_base))
    unknown = [sum(word not in known for word in words) / len(words) for words in (then, now)]
    found = {(check.check, check.of): check for check in checks}
    for what, value in (("drift", index), ("rise of unknown share", unknown[1] - unknown[0])):
        assert found[what, "word"].found == f"{value:.4f}"
        assert (found[what, "word"].outcome == "pass") == (value < 0.1)
    assert ("drift", "cost") in found  # buckets have ids too
    assert ("drift", "price") not in found  # a number has none


@pytest.mark.parametrize(("oov", "by_joins"), [(1, False), (OOV, True)])
def test_ids_never_move_and_other_fields_are_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oov: int, by_joins: bool
) -> None:
    if by_joins:
        as_if_large(monkeypatch)
    expected: dict[str, dict[str, Any]] = {}
    base, first = None, None
    known: dict[str, int] = {}
    words: list[str] = []
    for number in (1, 2):
        table = night(number)
        write_raw(tmp_path / f"raw-{number}", table)
        run = config(tmp_path, number, word={"num_oov_buckets": oov})
        manifest = build_features(spark, run, overwrite=False, base=base)
        train = [r["word"] for r in table.to_pylist() if r["s"] == "train"]
        counts = Counter(train)
        for entry in expected.values():
            entry["count"] = 0
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if word in expected:
                expected[word] |= {"count": count, "last_seen": date(2026, 1, number)}
            elif count >= MIN_COUNT and len(expected) < MAX_SIZE:
                expected[word] = {
                    "id": 1 + oov + len(expected),
                    "count": count,
                    "first_seen": date(2026, 1, number),
                    "last_seen": date(2026, 1, number),
                }
        rows = read_vocabulary(spark, run.features.path).entries.collect()
        found = {
            row["value"]: {key: row[key] for key in ("id", "count", "first_seen", "last_seen")}
            for row in rows
        }
        assert found == expected
        word, price, cost = manifest.fields
        assert word.cardinality == 1 + oov + len(expected)
        if base:
            check_drift(manifest.checks, known, oov, words, train)
            assert "change from 120 rows" in {check.check for check in manifest.checks}
        known, words = {value: entry["id"] for value, entry in expected.items()}, train
        first = first or (price.shift, price.scale, cost.edges)
        assert (price.shift, price.scale, cost.edges) == first  # what x means does not move either
        base = as_in_a_bundle(run.features.path, tmp_path / f"bundle-{number}")
    assert any(entry["count"] == 0 for entry in expected.values())  # gone, and still known
    assert len({entry["first_seen"] for entry in expected.values()}) > 1  # it did grow
    changed = config(tmp_path, 2, word={"num_oov_buckets": 5})
    with pytest.raises(ConfigError, match=f"'word': oov_buckets is 5, but {oov} in the base"):
        build_features(spark, changed, overwrite=True, base=base)
    with pytest.raises(DataError, match="no manifest at"):
        build_features(spark, run, overwrite=True, base=f"{tmp_path}/no")
    assert read_manifest(run.features.path) == manifest  # neither has touched what was there


EDGES = {"method": "edges", "edges": [0.5, 2.0]}
QUANTILES = "method quantile, num_buckets 4"


@pytest.mark.parametrize(
    ("then", "now", "refused"),
    [
        ({}, {"price": {"scale": "min_max"}}, "'price'.*'scale min_max', but 'scale standard'"),
        ({}, {"cost": {"num_buckets": 5}}, f"'cost'.*quantile, num_buckets 5', but '{QUANTILES}'"),
        ({}, {"cost": {"method": "log2"}}, f"'cost'.*'method log2', but '{QUANTILES}'"),
        ({"cost": EDGES}, {"cost": EDGES | {"edges": [0.5, 3.0]}}, r"edges \[0.5, 3.0\]', but"),
        ({"cost": EDGES}, {"cost": EDGES | {"num_buckets": 7}}, None),  # edges ask for no number
        ({"word": {"min_count": 5}}, {}, None),  # the known stay known
    ],
)
def test_a_field_that_was_fitted_otherwise_is_refused(
    spark: SparkSession, tmp_path: Path, then: Any, now: Any, refused: str | None
) -> None:
    """Before a row is read: its edges or its scale would stay those of the base without a word."""
    split = SplitSpec(files=[], rows=0, positives=0)
    before = config(tmp_path, 1, **then)
    manifest = Manifest(
        schema_version=2,
        **before.model_dump(include={"name", "task", "keys", "label"}),
        fields=unfitted_specs(before.fields),
        num_features=3,
        splits=dict.fromkeys(SPLITS, split),
        vocabulary_fingerprint="",
        source=SourceSpec(name="raw", rows=0),
        config_fingerprint="",
        software={},
        created_at="",
    )
    write_manifest(str(tmp_path), manifest)
    fields = unfitted_specs(config(tmp_path, 2, **now).fields)
    # What is not refused goes on to the vocabulary, which is not there.
    expected = (ConfigError, refused) if refused else (DataError, "no readable vocabulary")
    with pytest.raises(expected[0], match=expected[1]):
        read_base(spark, str(tmp_path), fields)
