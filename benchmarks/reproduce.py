"""Compare the models of He & Chua (SIGIR 2017) on MovieLens-100K: ``make reproduce``.

For each protocol (conf/reproduce/ratings.yaml, implicit.yaml) and model (models.yaml) a study finds
hyperparameters on the validation rows, three seeds train with the best ones, and the test rows
judge them. FuxiCTR trains the same models, of NFM one depth, in .venv-peers, with the same
hyperparameters and seeds. As many trainings run at a time as there are cores. What is done is not
done again: kill it at any time, and run it again.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine, results
from benchmarks.beside import train_beside
from benchmarks.report import write_docs
from benchmarks.results import COMMAND, COMPARED, Trained
from conf import storage
from conf.errors import ConfigError
from conf.loader import load_config, value_of
from conf.schema import Config
from jobs import evaluate, train, tune
from nfm.bundle import Bundle, load_bundle
from nfm.launch.study import BEST
from nfm.lifeline import end_with_parent
from nfm.registry import LATEST, resolve_bundle
from nfm.run_log import METRICS

CONF = Path("conf/reproduce")
PROTOCOLS = ("ratings", "implicit")
SEEDS = (1, 2, 3)
# Of the jobs that are called here.
_OPTIONS = argparse.Namespace(resume=None, overwrite=True, bundle=LATEST)


def main() -> None:
    """Do what is left, print the floors and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, help="page to write the tables into")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    options = parser.parse_args()
    began = time.monotonic()
    for protocol in PROTOCOLS:
        _build_features(protocol, options.sets)
    found = _compare(options.sets)
    print(results.floors(found))
    if options.docs:
        minutes = (time.monotonic() - began) / 60
        about = f"{machine.describe()}; {minutes:.0f} minutes since it was started last."
        write_docs(options.docs, COMMAND, f"{about}\n\n{results.page(found)}")


def _build_features(protocol: str, sets: Sequence[str]) -> None:
    path = f"{CONF}/{protocol}.yaml"
    if not storage.exists(f"{load_config(path, sets).features.path}/manifest.json"):
        options = [part for item in sets for part in ("--set", item)]
        command = [sys.executable, "-m", "jobs.build_features", "--config", path, *options]
        subprocess.run(command, check=True)


def _compare(sets: Sequence[str]) -> list[Trained]:
    """What came out for every protocol and model, in their order."""
    models: dict[str, dict[str, Any]] = yaml.safe_load((CONF / "models.yaml").read_text())
    cores = os.sched_getaffinity(0)
    context = multiprocessing.get_context("spawn")
    free: Queue[int] = context.Queue()
    for core in cores:
        free.put(core)
    units = dict[tuple[str, str], Future[list[Trained]]]()
    pool = ProcessPoolExecutor(len(cores), context, _begin, (free,))
    try:
        # Those that begin from another's bundle come last, when it is there.
        for model in sorted(models, key=lambda name: "begins_from" in models[name]):
            for protocol in PROTOCOLS:
                if before := models[model].get("begins_from"):
                    units[protocol, before].result()
                unit = pool.submit(_tune_and_train, protocol, model, models[model], sets)
                unit.add_done_callback(_say)
                units[protocol, model] = unit
        return [run for p in PROTOCOLS for m in models for run in units[p, m].result()]
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(free: "Queue[int]") -> None:
    """Give a process of the pool a core of its own."""
    end_with_parent()
    os.sched_setaffinity(0, {free.get()})


def _say(unit: Future[list[Trained]]) -> None:
    if not unit.cancelled() and not unit.exception():
        print(results.line(unit.result()), flush=True)


def _tune_and_train(
    protocol: str, model: str, own: dict[str, Any], sets: Sequence[str]
) -> list[Trained]:
    """Find a model's hyperparameters, train it with the best ones for each seed, and so a peer."""
    path = f"{CONF}/{protocol}.yaml"
    root = Path(load_config(path).train.path)
    place = root / model
    place.mkdir(parents=True, exist_ok=True)
    with (
        (place / "log").open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        config = load_config(
            path, [*study_settings(path, place, own), *_start(root, own, 1), *sets]
        )
        tune.run(config, _OPTIONS)
        assert config.tune
        best = f"{config.tune.path}/{BEST}"
        configs = {
            seed: load_config(best, [*_of_seed(place, seed), *_start(root, own, seed)])
            for seed in SEEDS
        }
        ours = {seed: _train(of_seed) for seed, of_seed in configs.items()}
        theirs = {
            seed: train_beside(of_seed, _peer(place, seed), _pretrained(root, own, seed))
            for seed, of_seed in configs.items()
            if model in COMPARED
        }
    used = config.tune.space.keys() - set(own.get("ignores", ()))
    chosen = {key: value_of(load_config(best), key) for key in config.tune.space if key in used}
    about = (chosen, config.tune.trials, best)
    return [Trained(protocol, model, seed, *ours[seed], *about, theirs.get(seed)) for seed in SEEDS]


def study_settings(path: str, place: Path, own: dict[str, Any]) -> list[str]:
    """What tells a model's study from those of the others."""
    tune_section = load_config(path).tune
    assert tune_section
    space = tune_section.model_dump(mode="json")["space"] | own.get("space", {})
    if "begins_from" in own:
        del space["model.embedding_dim"]
    paths = {"train.path": place, "train.work_path": place / "work", "tune.path": place / "study"}
    return [
        *(f"{key}={json.dumps(value)}" for key, value in own["set"].items()),
        *(f"{key}={value}" for key, value in paths.items()),
        f"tune.space={json.dumps(space)}",
    ]


def _of_seed(place: Path, seed: int) -> list[str]:
    return [
        f"train.seed={seed}",
        f"train.path={place}/seed-{seed}/models",
        f"evaluate.path={place}/seed-{seed}/reports",
    ]


def _start(root: Path, own: dict[str, Any], seed: int) -> list[str]:
    """Where a model begins that another one pre-trains."""
    if "begins_from" not in own:
        return []
    models = f"{root}/{own['begins_from']}/seed-{seed}/models"
    bundle = resolve_bundle(models, LATEST)
    dim = load_bundle(bundle).config.model.embedding_dim
    return [f"train.init_from={bundle}", f"model.embedding_dim={dim}"]


def _peer(place: Path, seed: int) -> Path:
    """Directory of what FuxiCTR trains."""
    return place / f"seed-{seed}" / "fuxictr"


def _pretrained(root: Path, own: dict[str, Any], seed: int) -> Path | None:
    return _peer(root / own["begins_from"], seed) if "begins_from" in own else None


def _train(config: Config) -> tuple[dict[str, float], float, int, float]:
    """Test metrics, validation metric, parameters and seconds per epoch of a training."""
    bundle = _bundle_of(config)
    if bundle is None:
        train.run(config, _OPTIONS)
        bundle = _bundle_of(config)
    assert bundle
    evaluate.run(config, _OPTIONS)
    report = Path(config.evaluate.path) / f"{bundle.model_id}-test" / evaluate.REPORT
    metrics = json.loads(report.read_text())
    valid = json.loads((Path(config.train.path) / bundle.model_id / "metrics.json").read_text())
    weights = [bundle.table_VD, *bundle.model.parameters()]
    log = Path(config.train.work_path) / bundle.model_id / METRICS
    epochs = [json.loads(line) for line in log.read_text().splitlines()]
    rates = [epoch["rows_per_s"] for epoch in epochs if "rows_per_s" in epoch]
    return (
        {key: value for key, value in metrics.items() if isinstance(value, float)},
        valid[config.train.early_stopping.metric],
        sum(tensor.numel() for tensor in weights),
        bundle.manifest.splits["train"].rows / statistics.median(rates),
    )


def _bundle_of(config: Config) -> Bundle | None:
    """The bundle that was trained with this config, if it is there."""
    with contextlib.suppress(ConfigError):
        bundle = load_bundle(resolve_bundle(config.train.path, LATEST))
        if bundle.config == train.with_bundle(config):
            return bundle
    return None


if __name__ == "__main__":
    main()
