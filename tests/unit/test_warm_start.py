"""Warm starts against dictionaries."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conf.manifest import FieldSpec, Manifest
from nfm.bundle import Bundle
from nfm.calibration import ScoreReference
from nfm.collectives import Alone
from nfm.models import build_model
from nfm.step import build_step
from nfm.table import ShardedTable
from nfm.warm_start import shared_features, warm_start
from tests.data import make_config
from tests.unit.test_batch import field

Words = dict[str, dict[str, int]]

SCORES = ScoreReference({}, None, None)


class Three(Alone):
    """The second of three workers, who need not talk here."""

    rank, size = 1, 3

    def sum(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        return tensor


def manifest(*fields: FieldSpec) -> Manifest:
    return Manifest.model_construct(
        fields=list(fields), num_features=sum(spec.cardinality for spec in fields)
    )


def write(directory: Path, words: Words) -> str:
    rows = [(name, word, i) for name, ids in words.items() for word, i in ids.items()]
    columns = dict(zip(("field", "value", "id"), map(list, zip(*rows, strict=True)), strict=True))
    (directory / "vocabulary").mkdir(parents=True)
    table = pa.table(columns, pa.schema({"field": "string", "value": "string", "id": "int32"}))
    for number in range(2):  # of two files
        part = table.slice(number * 2, 2 if number == 0 else None)
        pq.write_table(part, directory / "vocabulary" / f"part-{number}.parquet")
    return str(directory)


THEIRS: Words = {"user": {"ann": 2, "bob": 3}, "item": {"ann": 2, "x": 3}, "gone": {"z": 2}}
OURS: Words = {"item": {"new": 2, "x": 3, "ann": 4}, "user": {"ann": 2, "cid": 3, "bob": 4}}


@pytest.fixture
def both(tmp_path: Path) -> tuple[Manifest, str, Manifest, str]:
    before = manifest(
        field("user", "categorical", 4, 0),
        field("price", "numeric", 1, 4),
        field("item", "multi_valued", 4, 5, length=2),
        field("gone", "categorical", 3, 9),
        field("age", "bucketised", 4, 12).model_copy(update={"edges": [1.0]}),
        field("year", "bucketised", 4, 16).model_copy(update={"edges": [7.0]}),
    )
    now = manifest(
        field("item", "multi_valued", 5, 0, length=3),
        field("age", "bucketised", 4, 5).model_copy(update={"edges": [2.0]}),
        field("year", "bucketised", 4, 9).model_copy(update={"edges": [7.0]}),
        field("user", "categorical", 5, 13),
        field("price", "numeric", 1, 18),
    )
    return before, write(tmp_path / "before", THEIRS), now, write(tmp_path / "now", OURS)


def by_hand() -> dict[int, int]:
    """Their index by ours."""
    special = {13: 0, 14: 1, 0: 5, 1: 6, 18: 4}
    users = {13 + OURS["user"][word]: THEIRS["user"][word] for word in ("ann", "bob")}
    items = {OURS["item"][word]: 5 + THEIRS["item"][word] for word in ("ann", "x")}
    years = {9 + i: 16 + i for i in range(4)}
    return special | users | items | years


def test_features_are_matched_by_value(both: tuple[Manifest, str, Manifest, str]) -> None:
    theirs, ours = shared_features(*both)
    assert len(ours) == len(by_hand())
    assert dict(zip(ours.tolist(), theirs.tolist(), strict=True)) == by_hand()


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_known_rows_are_copied_and_the_others_are_new(
    tmp_path: Path, both: tuple[Manifest, str, Manifest, str], placement: str
) -> None:
    before, their_path, now, our_path = both
    config = make_config(tmp_path, f"train.placement={placement}")
    torch.manual_seed(5)
    table_VD = torch.randn(before.num_features, config.model.factors + 1)
    model = build_model(config.model, before.fields, Alone())
    bundle = Bundle("old", config, before, model, table_VD, SCORES)
    workers = Three() if placement == "sharded" else Alone()
    fresh, step = (build_step(config, now.fields, workers) for _ in range(2))
    assert isinstance(step.table, ShardedTable) == (placement == "sharded")
    assert warm_start(step, now, our_path, bundle, their_path) == len(by_hand())
    shards, shard = step.table.shards, step.table.shard
    for index in range(shard, now.num_features, shards):
        row = step.table.weight_RD[index // shards]
        if index in by_hand():
            assert torch.equal(row, table_VD[by_hand()[index]])
        else:
            assert torch.equal(row, fresh.table.weight_RD[index // shards])
    assert torch.equal(step.model.bias, model.bias)


def test_layers_are_copied_on_the_same_fields(
    tmp_path: Path, both: tuple[Manifest, str, Manifest, str]
) -> None:
    before, their_path, _, _ = both
    config = make_config(tmp_path)
    table_VD = torch.zeros(before.num_features, config.model.factors + 1)
    torch.manual_seed(5)
    model = build_model(config.model, before.fields, Alone())
    step = build_step(config, before.fields, Alone())
    bundle = Bundle("old", config, before, model, table_VD, SCORES)
    warm_start(step, before, their_path, bundle, their_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(step.model.state_dict()[name], tensor)


@pytest.mark.parametrize(("wide_only", "copied"), [("item", True), ("user", False)])
def test_layers_are_copied_where_they_see_the_same_fields(
    tmp_path: Path, both: tuple[Manifest, str, Manifest, str], wide_only: str, copied: bool
) -> None:
    """One field fewer in either, so that all shapes are the same."""
    before, their_path, _, _ = both
    config, other = (
        make_config(tmp_path, "model.name=wide_deep", f"model.wide_only=[{name}]")
        for name in (wide_only, "item")
    )
    table_VD = torch.zeros(before.num_features, config.model.factors + 1)
    torch.manual_seed(5)
    model = build_model(other.model, before.fields, Alone())
    bundle = Bundle("old", other, before, model, table_VD, SCORES)
    fresh, step = (build_step(config, before.fields, Alone()) for _ in range(2))
    warm_start(step, before, their_path, bundle, their_path)
    expected = model if copied else fresh.model
    for name, tensor in expected.state_dict().items():
        assert torch.equal(step.model.state_dict()[name], tensor)


@pytest.mark.parametrize("name", ["fnn", "nfm"])
def test_the_embeddings_and_w0_of_an_fm_are_taken(
    tmp_path: Path, both: tuple[Manifest, str, Manifest, str], name: str
) -> None:
    before, their_path, now, our_path = both
    config = make_config(tmp_path, f"model.name={name}")
    other = make_config(tmp_path, "model.name=fm")
    table_VD = torch.ones(before.num_features, config.model.factors + 1)
    model = build_model(other.model, before.fields, Alone())
    model.bias.data.fill_(0.3)
    bundle = Bundle("old", other, before, model, table_VD, SCORES)
    fresh, step = (build_step(config, now.fields, Alone()) for _ in range(2))
    warm_start(step, now, our_path, bundle, their_path)
    copied = [(row == 1).all().item() for row in step.table.weight_RD]
    assert [i for i, same in enumerate(copied) if same] == sorted(by_hand())
    assert step.model.bias.item() == pytest.approx(0.3)
    for part, tensor in fresh.model.state_dict().items():
        if part != "bias":
            assert torch.equal(step.model.state_dict()[part], tensor)
