import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reproduce import CONFIGS, FUXICTR, beside_peer, floors, page
from conf.errors import ConfigError
from conf.evaluation import Metric
from conf.loader import load_config, override_config
from conf.schema import Config
from jobs.comparison import MODELS, study_config
from jobs.results import Summary, Trained, by_table, tables
from tests.data import make_config

RATE = "train.optimizer.learning_rate"

AUC = {
    "lr": 0.77,
    "fm": 0.785,
    "fnn": 0.79,
    "wide_deep": 0.78,
    "deep_cross": 0.78,
    "nfm-0": 0.79,
    "nfm-1": 0.791,
}
RMSE = {
    "lr": 0.70,
    "fm": 0.60,
    "fnn": 0.59,
    "wide_deep": 0.61,
    "deep_cross": 0.62,
    "nfm-0": 0.60,
    "nfm-1": 0.59,
}
# What the peer's metric has more than ours.
PEER = {"wide_deep": 0.004, "fm": -0.0019, "deep_cross": 0.002, "nfm-1": -0.003}


PROTOCOLS: tuple[tuple[str, Metric, dict[str, float]], ...] = (
    ("ratings", "auc", AUC),
    ("implicit", "rmse", RMSE),
)


def found() -> list[Trained]:
    """Two seeds, 0.002 apart on the test rows; nfm-1 is best on the validation rows of both."""
    return [
        Trained(
            protocol,
            model,
            seed,
            metric,
            {metric: test[model] + 0.002 * (seed - 1), "loss": 0.5},
            valid=test[model],
            parameters=12345,
            epoch_s=seed - 0.5,
            chosen={
                "train.optimizer": {"name": "adam", "learning_rate": 0.002, "momentum": 0.0},
                "train.l2.embedding": 0.00012345,
                **({"model.hidden": [64]} if model == "nfm-1" else {}),
            },
            trials=8,
            config=f"{model}/best.yaml",
            peer=test[model] + 0.002 * (seed - 1) + PEER.get(model, 0.0),
        )
        for protocol, metric, test in PROTOCOLS
        for model in test
        for seed in (1, 2)
    ]


def test_the_page_is_that_of_the_trainings() -> None:
    lines = page(found()).splitlines()
    first, second = lines.index("### ratings"), lines.index("### implicit")
    assert lines[first + 2 : first + 5] == [
        "| model | valid auc | test auc | parameters | s per epoch |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| lr | 0.7700 ± 0.0000 | 0.7710 ± 0.0014 | 12,345 | 1.00 |",
    ]
    assert lines[second + 2].startswith("| model | valid rmse | test rmse |")
    assert lines[second + 10] == "| nfm-1 | 0.5900 ± 0.0000 | 0.5910 ± 0.0014 | 12,345 | 1.00 |"
    whole = "a model's whole config is the best.yaml of its study, as `lr/best.yaml`."
    assert f"Of 8 trials each; {whole}" in lines
    assert "| best of | optimizer | l2.embedding | hidden |" in lines
    assert "| lr | adam 0.002 | 0.00012 | - |" in lines
    assert "| nfm-1 | adam 0.002 | 0.00012 | [64] |" in lines


def test_a_peer_is_better_by_more_than_noise_or_not() -> None:
    lines = page(found()).splitlines()
    first, second = (at for at, line in enumerate(lines) if " of | ours |" in line)
    # Each mean of two seeds 0.002 apart has a standard error of 0.001; of a difference, 0.0014.
    assert lines[first : first + 8] == [
        "| test auc of | ours | FuxiCTR's | difference | noise | ours is |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| lr | 0.7710 ± 0.0014 | 0.7710 ± 0.0014 | +0.0000 | 0.0028 | within noise |",
        "| fm | 0.7860 ± 0.0014 | 0.7841 ± 0.0014 | +0.0019 | 0.0028 | within noise |",
        "| fnn | 0.7910 ± 0.0014 | 0.7910 ± 0.0014 | +0.0000 | 0.0028 | within noise |",
        "| wide_deep | 0.7810 ± 0.0014 | 0.7850 ± 0.0014 | -0.0040 | 0.0028 | **worse** |",
        "| deep_cross | 0.7810 ± 0.0014 | 0.7830 ± 0.0014 | -0.0020 | 0.0028 | within noise |",
        "| nfm-1 | 0.7920 ± 0.0014 | 0.7890 ± 0.0014 | +0.0030 | 0.0028 | better |",
    ]
    assert [line.split(" | ")[-1] for line in lines[second + 2 : second + 8]] == [
        *("within noise |", "within noise |", "within noise |"),
        *("better |", "within noise |", "**worse** |"),
    ]


def test_tables_have_three_seeds_and_a_peer_more() -> None:
    runs = found()
    fourth = [replace(run, seed=4, test={run.metric: 9.0}, peer=9.0) for run in runs]
    more = [run for pair in zip(runs, fourth, strict=True) for run in pair]
    before, after = (page(some).splitlines() for some in (runs, more))
    rows = [(old, new) for old, new in zip(before, after, strict=True) if old.startswith("| ")]
    differing = [old.split(" | ")[0] for old, new in rows if old != new]
    assert differing == 2 * [f"| {model}" for model in FUXICTR.models]


def test_nfm_is_better_than_a_rival_by_more_than_noise_or_not() -> None:
    ratings, implicit = (tables(summaries)[-1] for summaries in by_table(found()).values())
    assert ratings.splitlines() == [
        "| test auc beside | nfm-1 | its | difference | noise | nfm-1 is |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| fm | 0.7920 ± 0.0014 | 0.7860 ± 0.0014 | +0.0060 | 0.0028 | better |",
        "| fnn | 0.7920 ± 0.0014 | 0.7910 ± 0.0014 | +0.0010 | 0.0028 | within noise |",
        "| wide_deep | 0.7920 ± 0.0014 | 0.7810 ± 0.0014 | +0.0110 | 0.0028 | better |",
        "| deep_cross | 0.7920 ± 0.0014 | 0.7810 ± 0.0014 | +0.0110 | 0.0028 | better |",
    ]
    assert [line.split(" | ")[-1] for line in implicit.splitlines()[2:]] == [
        *("better |", "within noise |", "better |", "better |"),
    ]


def test_three_close_seeds_are_no_proof() -> None:
    lr = [replace(run, test={"auc": 0.77}, peer=0.7719) for run in found()[:2]]
    assert beside_peer(Summary(lr))[2:] == ["-0.0019", "0.0019", "within noise"]
    assert beside_peer(Summary([replace(run, peer=0.7721) for run in lr]))[-1] == "**worse**"
    missing = [lr[0], replace(lr[1], peer=None)]
    assert beside_peer(Summary(missing))[1:] == ["-", "-", "-", "**did not train**"]


def test_floors_hold_or_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert floors(found()).splitlines() == [
        "- ratings: nfm-1 has test auc 0.7920, at least 0.790: holds",
        "- ratings: nfm-1 has test auc 0.7920, at least fm (0.7860): holds",
        "- ratings: each model is within noise of FuxiCTR's or better: **fails** for wide_deep",
        "- implicit: nfm-1 has test rmse 0.5910, below fm (0.6010): holds",
        "- implicit: nfm-1 has test rmse 0.5910, below wide_deep (0.6110): holds",
        "- implicit: nfm-1 has test rmse 0.5910, below deep_cross (0.6210): holds",
        "- implicit: each model is within noise of FuxiCTR's or better: **fails** for nfm-1",
    ]
    # Now nfm-0 is the best on the validation rows.
    monkeypatch.setitem(AUC, "nfm-1", 0.78)
    monkeypatch.setitem(RMSE, "nfm-1", 0.605)
    assert [line.rpartition(": ")[2] for line in floors(found()).splitlines()] == [
        *("holds", "holds", "**fails** for wide_deep"),
        *("**fails**", "holds", "holds", "**fails** for nfm-1"),
    ]
    monkeypatch.setitem(AUC, "nfm-0", 0.781)
    assert "nfm-0 has test auc 0.7820, at least 0.790: **fails**" in floors(found())


def test_a_table_in_small_units_has_its_own_noise() -> None:
    small = [
        replace(run, metric="rmse", test={"rmse": 1e-3 * run.test["rmse"]}, peer=None)
        for run in found()
        if run.table == "implicit"
    ]
    (summaries,) = by_table(small).values()
    assert [row.split(" | ")[-1] for row in tables(summaries)[-1].splitlines()[2:]] == [
        *("better |", "within noise |", "better |", "better |")
    ]


def test_a_choice_may_be_any_section() -> None:
    runs = [replace(run, chosen={"train.l2": {"embedding": 0.1}}) for run in found()]
    assert '| lr | {"embedding": 0.1} |' in page(runs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("path", CONFIGS)
def test_every_model_has_a_space_that_can_be_trained(path: str, name: str) -> None:
    config = study_config(load_config(path), name)
    assert config.model.name == name.partition("-")[0]
    assert config.tune
    ends = {key: dimension.ends for key, dimension in config.tune.space.items()}
    for number in range(max(map(len, ends.values()))):
        override_config(config, {k: v[number % len(v)] for k, v in ends.items()}, name)
    if name.startswith("nfm-"):
        depths = {len(hidden) for hidden in ends.get("model.hidden", [config.model.hidden])}
        assert depths == {int(name[-1])}


def of_own(root: Path, space: dict[str, Any], *sets: str) -> Config:
    section = json.dumps({"path": f"{root}/comparison", "trials": 3, "space": space})
    return make_config(root, f"tune={section}", *sets)


def test_the_config_of_a_table_may_say_what_it_likes(tmp_path: Path) -> None:
    space = {"model.hidden": {"choices": [[], [8], [8, 4]]}, RATE: {"low": 0.01, "high": 0.1}}
    sets = ("score.explain=3", "train.init_from=latest", "train.num_workers=4")
    config = of_own(tmp_path, space, *sets, "evaluate.split=valid")
    for name in MODELS:
        study = study_config(config, name)
        assert study.tune
        tried = study.tune.space.get("model.hidden")
        assert (study.train.init_from, study.train.num_workers) == (None, 1)
        assert (study.evaluate.split, study.score.explain) == ("test", 0)
        if name == "nfm-0":
            assert (study.model.hidden, tried) == ([], None)
        elif name in ("lr", "fm"):
            assert "model.hidden" in MODELS[name]["ignores"]
        else:
            assert tried
            assert tried.choices != [[], [8], [8, 4]]


@pytest.mark.parametrize(
    ("space", "sets", "message"),
    [
        ({"model.name": {"choices": ["fm"]}}, (), "model.name is not for the trials of a comp"),
        ({"train.seed": {"low": 1, "high": 9}}, (), "train.seed is not for the trials"),
        ({RATE: {"choices": [0.1]}}, ("model.dropout=[0.3]",), "give one number for all"),
    ],
)
def test_what_no_comparison_can_have_is_refused(
    tmp_path: Path, space: dict[str, Any], sets: tuple[str, ...], message: str
) -> None:
    config = of_own(tmp_path, space, *sets)
    with pytest.raises(ConfigError, match=message):
        [study_config(config, name) for name in MODELS]
