import csv
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conf.errors import ConfigError, DataError, RunError
from conf.loader import load_config, override_config
from conf.manifest import Manifest
from conf.schema import Config
from nfm.launch.study import BEST, TRIALS, Study, check_study
from nfm.trainer import Result
from tests.bundles import bundle_of, write
from tests.data import make_config
from tests.distributed.features import write_features

RATE = "train.optimizer.learning_rate"
SPACE: dict[str, Any] = {
    RATE: {"low": 1e-3, "high": 1.0, "log": True},
    "model.hidden": {"choices": [[], [16], [16, 8]]},
    "model.embedding_dim": {"low": 2, "high": 9},
}


def tuned(root: Path, *, space: dict[str, Any] = SPACE, **keys: object) -> Config:
    tune = {"path": f"{root}/study", "trials": 4, "space": space, **keys}
    return make_config(root, f"tune={json.dumps(tune)}")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({RATE: {"low": 1.0, "high": 0.1}}, r"tune.space.*rate: low must be less than high"),
        ({RATE: {"low": 0, "high": 0.1, "log": True}}, r"with log, low must be greater than 0"),
        ({RATE: {"low": 0.1}}, r"give low and high, or choices"),
        ({RATE: {"low": 1, "high": 2, "choices": [1]}}, r"low and high, or choices, one of the tw"),
        ({RATE: {"lwo": 1, "high": 2}}, r"unknown key 'lwo'; did you mean 'low'\?"),
        ({RATE: {"choices": []}}, r"choices: .*at least 1 item"),
        ({}, r"tune.space: .*at least 1 item"),
        ({"fields.0.min_count": {"low": 1, "high": 2}}, r"'fields.0.min_count' is not for trials"),
        ({"train.early_stopping.metric": {"choices": ["auc"]}}, r"metric' is not for trials to se"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(
    tmp_path: Path, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tuned(tmp_path, space=space)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.epohcs": {"low": 1, "high": 2}}, r"train: unknown key 'epohcs'; did you mean"),
        ({"train.l2.embeding": {"low": 0.1, "high": 2.0}}, r"train.l2: unknown key 'embeding'"),
        (
            {"model.bi_dropout": {"low": 0.5, "high": 1.0}},
            r"model.bi_dropout: .*less than 1, found 1.0",
        ),
        ({"model.hidden": {"choices": [[4], 4]}}, r"model.hidden: .*valid list, found 4"),
    ],
)
def test_a_key_or_value_that_no_training_takes_is_named(
    tmp_path: Path, space: dict[str, Any], message: str
) -> None:
    config = tuned(tmp_path, space=space)
    manifest = write_features(config, [40], [20])
    with pytest.raises(ConfigError, match=f"tune.space: {re.escape(*space)}:\n +{message}"):
        check_study(config, manifest)


def test_a_study_that_begins_from_a_bundle_has_its_width(tmp_path: Path) -> None:
    space = {"model.embedding_dim": {"choices": [4, 8]}}
    config, begin = tuned(tmp_path, space=space), {"train.init_from": "serving"}
    config = override_config(config, begin, "test")
    manifest = write_features(config, [40], [20])
    assert check_study(config, manifest)  # nothing serves yet, so it begins anew
    (tmp_path / "other").mkdir()
    bundle = bundle_of(tmp_path / "other", "model.embedding_dim=8")
    begin["train.init_from"] = write(bundle, tmp_path / "other/bundle")
    config = override_config(config, begin, "test")
    with pytest.raises(ConfigError, match=r"embedding_dim: with 4 the model has 4 .* has 8"):
        check_study(config, manifest)


def test_without_a_space_there_is_nothing_to_tune(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with pytest.raises(ConfigError, match="no tune section"):
        check_study(config, write_features(config, [40], [20]))


def result_of(values: dict[str, Any]) -> Result:
    """As if a learning rate of 0.03 was best, and small embeddings."""
    loss = abs(values[RATE] - 0.03) + values["model.embedding_dim"] / 100
    return Result(0, 1, {"auc": 1 / (1 + loss), "rows": 9}, 3, 100)


def run_study(config: Config, manifest: Manifest, *, killed_in: int = 0) -> list[dict[str, Any]]:
    """Try what is left, of which the second diverges, or as a process that is killed in a trial."""
    tried = []
    study = Study(config, manifest)
    for trial in study.trials():
        tried.append(trial.values)
        if trial.number == killed_in:
            break
        study.tell(None if trial.number == 2 else result_of(trial.values), 0.5)
    return tried


def test_a_killed_study_tries_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    config = tuned(tmp_path, trials=7)
    manifest = write_features(config, [40], [20])
    undisturbed = run_study(config, manifest)
    assert len(undisturbed) == 7
    assert undisturbed[0] == {RATE: 0.1, "model.hidden": [16], "model.embedding_dim": 8}
    assert len({tuple(map(str, values.values())) for values in undisturbed}) == 7
    killed = tuned(tmp_path, trials=7, path=f"{tmp_path}/killed")
    parts = [run_study(killed, manifest, killed_in=number) for number in (1, 7, 0)]
    assert [len(part) for part in parts] == [1, 7, 1]
    assert [part[-1] for part in parts[:-1]] == [part[0] for part in parts[1:]]
    assert [values for part in parts for values in part[:-1]] + parts[-1][-1:] == undisturbed
    tables = [pd.read_csv(tmp_path / name / TRIALS) for name in ("study", "killed")]
    pd.testing.assert_frame_equal(*tables)


def test_the_best_config_and_the_table_are_those_of_the_trials(tmp_path: Path) -> None:
    config = tuned(tmp_path)
    manifest = write_features(config, [40], [20])
    tried = run_study(config, manifest)
    aucs = [result_of(values).metrics["auc"] for values in tried]
    best = max((0, 2, 3), key=aucs.__getitem__)
    found = load_config(f"{tmp_path}/study/{BEST}")
    assert found == make_config(tmp_path, *(f"{k}={json.dumps(v)}" for k, v in tried[best].items()))
    with (tmp_path / "study" / TRIALS).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["done", "diverged", "done", "done"]
    assert [row["valid_auc"] for row in rows] == [str(aucs[0]), "", str(aucs[2]), str(aucs[3])]
    assert [json.loads(row["model.hidden"]) for row in rows] == [v["model.hidden"] for v in tried]
    more = tuned(tmp_path, trials=5)
    assert len(run_study(more, manifest)) == 1


def test_all_trials_may_diverge(tmp_path: Path) -> None:
    config = tuned(tmp_path, trials=1)
    study = Study(config, write_features(config, [40], [20]))
    for _ in study.trials():
        study.tell(None, 0.5)
    with pytest.raises(RunError, match="all of 1 trials diverged: lower the learning rates"):
        study.best()


def test_another_config_or_other_data_have_a_study_of_their_own(tmp_path: Path) -> None:
    config = tuned(tmp_path, trials=1)
    manifest = write_features(config, [40], [20])
    run_study(config, manifest)
    wider = SPACE | {"model.embedding_dim": {"low": 2, "high": 99}}
    for other, key in (
        (tuned(tmp_path, space=wider), "tune.space"),
        (tuned(tmp_path, seed=1), "tune.seed"),
        (override_config(config, {"train.epochs": 1}, "test"), "train.epochs"),
    ):
        with pytest.raises(ConfigError, match=f"not that of the study .*: {key} differ; go on"):
            check_study(other, manifest)
    with pytest.raises(DataError, match="built anew since the study"):
        check_study(config, manifest.model_copy(update={"created_at": "later"}))


def test_what_is_done_with_a_bundle_makes_no_other_study(tmp_path: Path) -> None:
    config = tuned(tmp_path, trials=1)
    manifest = write_features(config, [40], [20])
    run_study(config, manifest)
    later = {"evaluate.group_by": "user", "evaluate.segments": ["user"], "score.path": "elsewhere"}
    check_study(override_config(config, later, "test"), manifest)


def test_a_group_decides_where_gauc_does(tmp_path: Path) -> None:
    by_user = {"evaluate.group_by": "user", "train.early_stopping.metric": "gauc"}
    config = override_config(tuned(tmp_path, trials=1), by_user, "test")
    manifest = write_features(config, [40], [20])
    Study(config, manifest)
    with pytest.raises(ConfigError, match=r"evaluate.group_by differ; go on"):
        check_study(override_config(config, {"evaluate.group_by": "item"}, "test"), manifest)
