import json
from pathlib import Path

import pytest
import yaml

from conf.errors import ConfigError
from conf.loader import dump_config, load_config
from conf.reference import markdown
from conf.schema import Config
from tests.data import make_config, write_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epohcs=3", r"train: unknown key 'epohcs'; did you mean 'epochs'\?"),
        ("modle.name=nfm", r"top level: unknown key 'modle'; did you mean 'model'\?"),
        ("fields.0.min_cuont=3", r"fields.0.categorical: unknown key 'min_cuont'"),
        ("train.epochs=many", r"train.epochs: .*valid integer, found 'many'"),
        ("train.epochs=2.5", r"train.epochs: .*valid integer, found 2.5"),
        ("train.epochs=0", r"train.epochs: .*greater than or equal to 1, found 0"),
        ("model.dropout=1.0", r"model.dropout\..*less than 1, found 1.0"),
        ("model={name: wide_deep, wide_only: [nobody]}", r"wide_only: there is no field 'nobody'"),
        (
            "model={name: wide_deep, wide_only: [user, item, device, price, age, tags]}",
            r"wide_only: names every field",
        ),
        ("model.name=fancy", r"model.name: .*'nfm', .* found 'fancy'"),
        ("fields.0.kind=text", r"fields.0: .*'text'"),
        ("fields.1.name=user", r"fields: 'user' is named twice"),
        ("fields.1.name=label", r"'label' is reserved"),
        ("fields.1.name=User", r"fields: 'user' is named twice"),
        ("fields.1.name=Label", r"'Label' is reserved"),
        ("fields.1.name=sample_weight", r"'sample_weight' is reserved"),
        ("keys=[user, User]", r"keys: 'user' is named twice"),
        ("keys=[DS]", r"keys, score.columns: 'ds' is a column of the scores"),
        ("train.batch_size=1", r"less than one row for each of 2 workers"),
        ("fields.1.expr=1", r"fields.1.*expr"),
        ("fields.0.cross=[user]", r"fields.0.categorical.cross: .*at least 2 items"),
        ("fields.0={name: u, kind: categorical, column: a, cross: [a, b]}", "column or cross"),
        ("fields.0={name: u, kind: categorical, part: hour, cross: [a, b]}", "not a cross"),
        ("fields.0.part=century", r"fields.0.categorical.part: .*'minute', found 'century'"),
        ("fields.0={name: u, kind: hashed}", r"fields.0.hashed.num_buckets: .*required"),
        ("fields.3.clip=[3, 1]", r"field 'price': clip must rise, found 3 to 1"),
        ("fields.3.log1p=true", r"field 'price': log1p takes values from 0 up; give clip"),
        ("fields.4.method=edges", r"field 'age': edges go with method: edges"),
        ("fields.4={name: a, kind: bucketised, method: edges, edges: [2, 1]}", "must ascend"),
        ("raw.table=t", r"raw: .*give path or table, one of the two"),
        ("raw={table: t, format: csv}", r"raw: .*format and options speak of files"),
        ("split.valid=0.9", r"split.*no rows would be left to train on"),
        ("task=regression", r"there is no auc for task regression with squared loss, but rmse"),
        ("train.early_stopping.metric=gauc", r"gauc needs evaluate.group_by"),
        ("promote.metric=gauc", r"promote\.metric: gauc needs evaluate.group_by"),
        ("train.early_stopping.metric=f1", r"metric: .*'rmse', found 'f1'"),
        ("evaluate.group_by=users", r"no field 'users' to group by, but user, item"),
        ("evaluate.group_by=tags", r"field 'tags' is multi_valued; GAUC ranks within"),
        ("evaluate.group_by=price", r"field 'price' is numeric; GAUC ranks within"),
        ("fields.99.name=x", r"--set fields.99.name=x: no such key"),
        ("train.epochs", r"--set train.epochs: expected dotted.key=value"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(tmp_path, override)


def test_losses_have_metrics_of_their_own(tmp_path: Path) -> None:
    squared = make_config(tmp_path, "train.loss=squared", "train.early_stopping.metric=rmse")
    assert (make_config(tmp_path).loss, squared.loss) == ("logistic", "squared")
    with pytest.raises(ConfigError, match=r"no ece .* with squared loss, but auc, pr_auc, rmse"):
        make_config(tmp_path, "train.loss=squared", "train.early_stopping.metric=ece")
    with pytest.raises(ConfigError, match=r"train.loss: a regression has the squared loss"):
        make_config(tmp_path, "task=regression", "train.loss=logistic")


def test_overrides_are_yaml_and_reach_into_lists(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        "train.optimizer.learning_rate=1e-3",
        "model.hidden=[4, 2]",
        "fields.0.min_count=7",
    )
    assert config.train.optimizer.learning_rate == 0.001
    assert config.model.hidden == [4, 2]
    assert config.fields[0].model_dump()["min_count"] == 7


def test_dates_stay_text(tmp_path: Path) -> None:
    cut = "{kind: time, column: seen_at, valid_from: 2024-01-01, test_from: 2024-02-01 10:00:00}"
    split = make_config(tmp_path, f"split={cut}").split
    assert split.model_dump()["valid_from"] == "2024-01-01"
    assert split.model_dump()["test_from"] == "2024-02-01 10:00:00"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config file '.*no\.yaml'.*give one with --config"):
        load_config(str(tmp_path / "no.yaml"))


@pytest.mark.parametrize("url", ["nosuch://bucket/c.yaml", "/dev/null/c.yaml"])
def test_a_path_that_cannot_be_opened_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match=f"config file '{url}'"):
        load_config(url)


def test_text_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1, 2")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(str(path))


def test_the_readmes_example_is_valid(tmp_path: Path) -> None:
    example = (ROOT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "clicks.yaml"
    path.write_text(example)
    assert load_config(str(path)).name == "clicks"


def test_the_resolved_config_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(str(write_config(tmp_path)))
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_config(config))
    again = load_config(str(path))
    assert again == config
    assert again.fingerprint() == config.fingerprint()


@pytest.mark.parametrize(
    "path",
    sorted({*(ROOT / "conf").glob("*.yaml"), *(ROOT / "conf/reproduce").glob("*.yaml")}),
    ids=lambda p: p.name,
)
def test_shipped_configs_are_valid(path: Path) -> None:
    assert load_config(str(path)).fields


def test_generated_pages_are_up_to_date() -> None:
    schema = json.loads((ROOT / "conf/schema.json").read_text())
    assert schema == Config.model_json_schema(), "run: make docs"
    assert (ROOT / "docs/config.md").read_text() == markdown(Config), "run: make docs"


def test_a_preset_counts_where_the_file_names_nothing(tmp_path: Path) -> None:
    config = make_config(tmp_path, "preset=nfm_paper", "train.optimizer={learning_rate: 0.02}")
    assert (config.model.bi_dropout, config.model.dropout) == (0.5, 0.1)
    assert config.train.optimizer.learning_rate == 0.02
    assert config.train.optimizer.initial_accumulator == 2.4e-12
    resolved = dump_config(config)  # must not follow what later releases say in the preset
    assert "preset: null" in resolved
    (tmp_path / "resolved.yaml").write_text(resolved)
    assert load_config(str(tmp_path / "resolved.yaml")) == config
    with pytest.raises(ConfigError, match=r"preset: there is no 'nope', there are nfm_paper"):
        make_config(tmp_path, "preset=nope")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "conf/presets").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_preset_makes_a_config(tmp_path: Path, path: Path) -> None:
    data = yaml.safe_load(write_config(tmp_path).read_text())
    for section, values in yaml.safe_load(path.read_text()).items():
        for key in values:  # the preset must say it
            data[section].pop(key, None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data | {"preset": path.stem}))
    config = load_config(str(tmp_path / "config.yaml"))
    assert (config.model.name, config.train.path) == ("nfm", data["train"]["path"])
