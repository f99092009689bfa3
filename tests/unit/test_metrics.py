"""Metrics against scikit-learn, row by row, on small tables full of ties."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from conf.manifest import FieldSpec
from nfm.batch import Batch
from nfm.metrics import by_group, metrics, reliability
from nfm.objective import Objective
from nfm.segments import in_tenths, value_names
from nfm.tally import ListTallier, Tallier, Tally, merge

LOGISTIC = Objective("binary", "logistic")
SIGNED = Objective("binary", "squared")
BOUNDED = Objective("regression", "squared", (-1.0, 2.5))
# Output, label, local id of the user: few of each, so that ties are the rule.
ROWS = st.lists(
    st.tuples(st.integers(-6, 6).map(lambda n: n / 2), st.integers(0, 1), st.integers(0, 4)),
    min_size=2,
    max_size=60,
)
BOTH_CLASSES = ROWS.filter(lambda rows: len({label for _, label, _ in rows}) == 2)
Row = tuple[float, int, int]
FEW = settings(max_examples=30, deadline=None)  # scikit-learn takes milliseconds a call


def field(
    name: str = "user", kind: str = "categorical", offset: int = 0, **more: object
) -> FieldSpec:
    return FieldSpec.model_validate(
        {"name": name, "kind": kind, "source": name, "is_expr": False, "cardinality": 5}
        | {"offset": offset, "length": 1, **more}
    )


def columns(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    output, label, user = zip(*rows, strict=True)
    return np.array(output), np.array(label), np.array(user)


def tally_of(rows: list[Row]) -> Tally:
    output, label, user = columns(rows)
    return Tally.of(output, label, {"user": user})


@FEW
@given(BOTH_CLASSES)
def test_binary_metrics_equal_scikit_learns(rows: list[Row]) -> None:
    logits, labels, _ = columns(rows)
    found = metrics(tally_of(rows), LOGISTIC)
    p = 1 / (1 + np.exp(-logits))
    logloss = sklearn_metrics.log_loss(labels, p)
    base = sklearn_metrics.log_loss(labels, np.full(len(labels), labels.mean()))
    expected = {
        "auc": sklearn_metrics.roc_auc_score(labels, logits),
        "pr_auc": sklearn_metrics.average_precision_score(labels, logits),
        "logloss": logloss,
        "normalised_entropy": logloss / base,
        "rmse": sklearn_metrics.root_mean_squared_error(labels, p),
        "predicted_to_observed": p.sum() / labels.sum(),
        "rows": len(rows),
        "positives": labels.sum(),
    }
    ece = found.pop("ece")
    assert found == pytest.approx(expected)
    assert ece == pytest.approx(error_of(bins_by_hand(logits, labels)))


@FEW
@given(BOTH_CLASSES)
def test_squared_loss_is_judged_within_bounds(rows: list[Row]) -> None:
    """The label 1 stands for +1 and 0 for -1 in a binary task."""
    outputs, labels, _ = columns(rows)
    found = metrics(tally_of(rows), SIGNED)
    expected = metrics(tally_of(rows), LOGISTIC)
    assert {name: found[name] for name in ("auc", "pr_auc", "rows", "positives")} == {
        name: expected[name] for name in ("auc", "pr_auc", "rows", "positives")
    }
    clipped = [min(1.0, max(-1.0, y)) for y in outputs]
    signs = np.where(labels == 1, 1, -1)
    rmse = sklearn_metrics.root_mean_squared_error(signs, clipped)
    assert found["rmse"] == pytest.approx(rmse)
    assert len(found) == 5, "no metric of probabilities"
    clipped = [min(2.5, max(-1.0, y)) for y in outputs]
    rmse = sklearn_metrics.root_mean_squared_error(labels, clipped)
    found = metrics(tally_of(rows), BOUNDED)
    assert found == pytest.approx({"rmse": rmse, "rows": len(rows)})


@FEW
@given(BOTH_CLASSES)
def test_groups_equal_scikit_learn_on_the_rows_of_each(rows: list[Row]) -> None:
    """GAUC leaves out missing (0), unknown (1), and users with one class."""
    users = defaultdict(list)
    for output, label, user in rows:
        users[user].append((output, label))
    table = by_group(tally_of(rows), LOGISTIC, "user")
    weighed, left_out = {}, 0
    for number, user in enumerate(sorted(users)):
        logits, labels = (np.array(column) for column in zip(*users[user], strict=True))
        p = 1 / (1 + np.exp(-logits))
        row = {name: column[number] for name, column in table.items()}
        assert (row["id"], row["rows"], row["positives"]) == (user, len(labels), labels.sum())
        assert row["logloss"] == pytest.approx(sklearn_metrics.log_loss(labels, p, labels=[0, 1]))
        assert row["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(labels, p))
        if 0 < labels.sum() < len(labels):
            auc = sklearn_metrics.roc_auc_score(labels, logits)
            assert row["auc"] == pytest.approx(auc)
            if user > 1:
                weighed[auc, user] = len(labels)
        else:
            assert math.isnan(row["auc"])
            left_out += user > 1
    found = metrics(tally_of(rows), LOGISTIC, field())
    assert (found["gauc_keys"], found["gauc_keys_left_out"]) == (len(weighed), left_out)
    assert found["gauc_rows"] == sum(weighed.values())
    if weighed:
        total = sum(auc * count for (auc, _), count in weighed.items())
        assert found["gauc"] == pytest.approx(total / found["gauc_rows"])
    else:
        assert "gauc" not in found


Bins = list[tuple[float, float, int, float, float]]


def bins_by_hand(logits: np.ndarray, labels: np.ndarray) -> Bins:
    """Row by row: the bin of a logit is where the middle of its rows lies, in tenths of all."""
    rows = sorted(zip(logits.tolist(), labels.tolist(), strict=True))
    logits_only = [logit for logit, _ in rows]
    bins = defaultdict(list)
    for logit, label in rows:
        below, ties = sum(z < logit for z in logits_only), logits_only.count(logit)
        bins[(10 * (2 * below + ties)) // (2 * len(rows))].append((logit, label))
    table = []
    for number in sorted(bins):
        p = [1 / (1 + math.exp(-logit)) for logit, _ in bins[number]]
        observed = sum(label for _, label in bins[number]) / len(p)
        table.append((min(p), max(p), len(p), sum(p) / len(p), observed))
    return table


def error_of(bins: Bins) -> float:
    rows = sum(row[2] for row in bins)
    return sum(count * abs(p - observed) for _, _, count, p, observed in bins) / rows


@FEW
@given(BOTH_CLASSES)
def test_the_reliability_table_row_by_row(rows: list[Row]) -> None:
    logits, labels, _ = columns(rows)
    table = reliability(tally_of(rows), LOGISTIC)
    found = list(zip(*(column.tolist() for column in table.values()), strict=True))
    expected = bins_by_hand(logits, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_reliability_table_without_ties_is_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=500).astype(np.float32)
    labels = rng.integers(0, 2, 500)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    table = reliability(Tally.of(logits, labels), LOGISTIC)
    observed, predicted = calibration_curve(labels, p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(table["predicted"], predicted)
    np.testing.assert_allclose(table["observed"], observed)
    assert table["rows"].tolist() == [50] * 10


@FEW
@given(BOTH_CLASSES, st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_tallies_of_any_parts_merge_into_that_of_all(rows: list[Row], part_of: list[int]) -> None:
    """To the last bit, also where a part has no rows."""
    parts = [
        [row for row, part in zip(rows, part_of, strict=False) if part == number]
        for number in range(4)
    ]
    output, label, user = (np.array([]),) * 3
    empty = Tally.of(output, label, {"user": user})
    merged = merge([tally_of(part) if part else empty for part in parts])
    whole = tally_of(rows)
    assert merged.count_N.tolist() == whole.count_N.tolist()
    for objective in (LOGISTIC, SIGNED):
        assert metrics(merged, objective, field()) == metrics(whole, objective, field())


FOLLOWS = field("tags", "multi_valued", offset=5, length=3)


def test_a_tallier_counts_batches_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfm.tally._ROWS_APART", 30)
    rng = np.random.default_rng(4)
    fields = [
        field("item", offset=0),
        field("tags", "multi_valued", offset=5, length=3),
        field("user", offset=10),
    ]
    tallier = Tallier(fields, ["user", "item"])
    outputs, labels, users, items = [], [], [], []
    for size in (7, 0, 40, 13, 5):
        ids = torch.from_numpy(rng.integers(0, 5, (size, 5)).astype(np.int32))
        batch = Batch(
            ids + torch.tensor([0, 5, 5, 5, 10], dtype=torch.int32),
            torch.ones(size, 5),
            torch.from_numpy(rng.integers(0, 2, size).astype(np.float32)),
        )
        output = torch.from_numpy(rng.integers(-2, 3, size).astype(np.float64))
        tallier.add(output, batch)
        outputs += output.tolist()
        labels += batch.label_B.tolist()
        users += ids[:, 4].tolist()
        items += ids[:, 0].tolist()
    found, expected = tallier.tally(), Tally.of(outputs, labels, {"user": users, "item": items})
    assert found.rows == 65
    for name in ("user", "item"):
        assert by_group(found, LOGISTIC, name)["auc"].tolist() == pytest.approx(
            by_group(expected, LOGISTIC, name)["auc"].tolist(), nan_ok=True
        )


def test_a_row_counts_once_for_each_value_of_its_list() -> None:
    rng = np.random.default_rng(5)
    tallier = ListTallier([field("item", offset=0), FOLLOWS], "tags")
    expected: dict[int, list[tuple[float, float]]] = {}
    for size in (7, 0, 40):
        ids = rng.integers(0, 5, (size, 4)).astype(np.int32)
        x = rng.integers(0, 2, (size, 4)).astype(np.float32)
        label, output = rng.integers(0, 2, size), rng.integers(-2, 3, size)
        batch = Batch(
            torch.from_numpy(ids + np.array([0, 5, 5, 5], np.int32)),
            torch.from_numpy(x),
            torch.from_numpy(label.astype(np.float32)),
        )
        tallier.add(torch.from_numpy(output.astype(np.float64)), batch)
        for row in range(size):
            for value in {int(ids[row, s]) for s in (1, 2, 3) if x[row, s]}:
                expected.setdefault(value, []).append((output[row], label[row]))
    found = by_group(tallier.tally(), LOGISTIC, "tags")
    assert found["id"].tolist() == sorted(expected)
    for value, rows, auc in zip(found["id"], found["rows"], found["auc"], strict=True):
        outputs, labels = zip(*expected[value], strict=True)
        of_rows = sklearn_metrics.roc_auc_score(labels, outputs)
        assert (rows, auc) == (len(outputs), pytest.approx(of_rows))


PRICE = field("price", "numeric", clip=[0.0, None], log1p=True, shift=1.5, scale=0.25)


def priced(price: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """x of a raw price."""
    return ((np.log1p(price) - PRICE.shift) / PRICE.scale).astype(np.float32)


def test_a_number_is_cut_into_tenths_of_the_rows() -> None:
    rng = np.random.default_rng(6)
    price = rng.permutation(1000)
    label, output = rng.integers(0, 2, 1000), rng.integers(-9, 9, 1000)
    tallier = Tallier([field("item"), PRICE], ["price"])
    for rows in np.split(np.arange(1000), [3, 500]):
        batch = Batch(
            torch.zeros(len(rows), 2, dtype=torch.int32),
            torch.from_numpy(np.column_stack([np.ones(len(rows)), priced(price[rows])])).float(),
            torch.from_numpy(label[rows].astype(np.float32)),
        )
        tallier.add(torch.from_numpy(output[rows].astype(np.float64)), batch)
    tally, ranges = in_tenths(tallier.tally(), PRICE)
    assert ranges.edges == pytest.approx(range(100, 1000, 100), rel=1e-5)
    found = by_group(tally, LOGISTIC, "price")
    assert value_names("", ranges, found["id"])[[0, 1, 9]].tolist() == [
        *("[-inf, 100)", "[100, 200)", "[900, inf)")
    ]
    for tenth, auc in enumerate(found["auc"]):
        mine = price // 100 == tenth
        assert auc == pytest.approx(sklearn_metrics.roc_auc_score(label[mine], output[mine]))


@pytest.mark.parametrize(
    ("prices", "edges", "rows"),
    [
        ([7.0] * 30, [], [30]),
        ([0.0] * 25 + [1.0] * 5, [1.0], [25, 5]),
        ([0.0, 1.0, 2.0], [1.0, 2.0], [1, 1, 1]),
        ([0.0] * 9 + [1.0] + [2.0] * 10, [2.0], [10, 10]),
        ([0.0], [], [1]),
    ],
)
def test_equal_numbers_stay_in_one_range(
    prices: list[float], edges: list[float], rows: list[int]
) -> None:
    nothing = np.zeros(len(prices))
    tally = Tally.of(nothing, nothing, {"price": priced(prices).view(np.int32)})
    cut, ranges = in_tenths(tally, PRICE)
    assert ranges.edges == pytest.approx(edges, abs=1e-6)
    assert by_group(cut, LOGISTIC, "price")["rows"].tolist() == rows


def test_what_one_class_leaves_undefined_is_left_out() -> None:
    found = metrics(Tally.of([1.0, 2.0], [0.0, 0.0]), LOGISTIC)
    assert found.keys() == {"logloss", "rmse", "ece", "rows", "positives"}
    found = metrics(Tally.of([1.0, 2.0], [1.0, 1.0]), LOGISTIC)
    assert "auc" not in found
    assert found["pr_auc"] == 1.0


def test_metrics_survive_extreme_logits() -> None:
    found = metrics(Tally.of([1e4, -1e4], [1.0, 0.0]), LOGISTIC)
    assert (found["logloss"], found["rmse"], found["auc"], found["ece"]) == (0.0, 0.0, 1.0, 0.0)


def test_ids_are_named(tmp_path: Path) -> None:
    (tmp_path / "vocabulary").mkdir()
    table = pa.table(
        {"field": ["user", "user", "item"], "value": ["ann", "bo", "x"], "id": [2, 3, 2]}
    )
    pq.write_table(table, tmp_path / "vocabulary/part-0.parquet")

    def names(spec: FieldSpec, *ids: int) -> list[str]:
        return value_names(str(tmp_path), spec, np.array(ids)).tolist()

    assert names(field(), 0, 1, 3, 2) == ["missing", "unknown", "bo", "ann"]
    assert names(field(kind="hashed", oov_buckets=4), 0, 3) == ["missing", "bucket 3"]
    age = field(kind="bucketised", edges=[18.0, 65.5])
    assert names(age, 0, 2, 3, 4) == ["missing", "[-inf, 18)", "[18, 65.5)", "[65.5, inf)"]
    times = field(kind="bucketised", edges=[1700000000.0, 1700000300.0])
    assert names(times, 2, 3) == ["[-inf, 1.7e+09)", "[1.7e+09, 1.7000003e+09)"]
