"""What conf/presets/nfm_strong.yaml comes to on two generated tables: ``make bench-preset``.

Beside it an FM with the same values, and NFM with fewer factors, of which less is dropped. Three
seeds each, one training to a core. What is trained is not trained again: kill it at any time, and
run it again; to begin anew remove build/preset.

Example:
    python -m benchmarks.preset
"""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from conf import storage
from conf.loader import load_config, override_config
from conf.manifest import FILE_NAME
from conf.schema import Config
from jobs import build_features
from jobs.comparison import OPTIONS, SEEDS, train_and_judge
from jobs.cores import pool_of_cores
from jobs.results import markdown, spread
from jobs.session import spark_session

COMMAND = "make bench-preset"
TABLES = ("usage", "tags")
RECIPES: dict[str, dict[str, Any]] = {
    "`fm` with the values of nfm_strong": {"model.name": "fm"},
    "nfm_strong": {},
    "nfm_strong, K 128, bi_dropout 0.7": {"model.embedding_dim": 128, "model.bi_dropout": 0.7},
}


def configs_of(table: str) -> dict[tuple[str, str, int], Config]:
    """The trainings on a table, by table, recipe and seed."""
    config = load_config(f"conf/reproduce/{table}.yaml")
    found = {}
    for number, (recipe, values) in enumerate(RECIPES.items()):
        for seed in SEEDS:
            place = f"build/preset/{table}/{number}-seed-{seed}"
            parts = {"train.path": "models", "train.work_path": "work", "evaluate.path": "reports"}
            paths = {key: f"{place}/{part}" for key, part in parts.items()}
            settings = values | paths | {"train.seed": seed}
            found[table, recipe, seed] = override_config(config, settings, COMMAND)
    return found


def judge(config: Config) -> float:
    """The table's metric on the test rows; what the training says goes beside it."""
    Path(config.train.path).mkdir(parents=True, exist_ok=True)
    with (
        Path(config.train.path, "log").open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        return train_and_judge(config)[0][config.train.early_stopping.metric]


def page(found: dict[tuple[str, str, int], float]) -> str:
    """A row per recipe, a column per table."""
    head = ["three seeds, test RMSE", *TABLES]
    rows = [
        [
            recipe,
            *(spread([found[table, recipe, seed] for seed in SEEDS]) for table in TABLES),
        ]
        for recipe in RECIPES
    ]
    return markdown(head, rows)


def main() -> None:
    """Build what is not there, train what is left, print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    todo = {key: config for table in TABLES for key, config in configs_of(table).items()}
    for config in todo.values():
        if not storage.exists(f"{config.features.path}/{FILE_NAME}"):
            build_features.run(config, OPTIONS)
            spark_session(config.spark).stop()
    found = {}
    with pool_of_cores() as pool:
        for key, metric in zip(todo, pool.map(judge, todo.values()), strict=True):
            found[key] = metric
            print(*key, f"{metric:.4f}", flush=True)
    print(page(found))


if __name__ == "__main__":
    main()
