"""Does NFM beat FM, FNN, Wide&Deep and DeepCross? A table -> its models, tuned, side by side.

For each model of jobs/comparison.yaml a study (``jobs.tune``) finds hyperparameters on the
validation rows, three seeds train with the best ones, and the test rows judge them. As many
trainings run at a time as there are cores, each on one. What is done is not done again: stop it at
any time, and run it again.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from importlib.resources import files
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import yaml

from conf import storage
from conf.errors import ConfigError, PipelineError
from conf.loader import load_config, override_config, value_of
from conf.manifest import FILE_NAME
from conf.schema import Config
from jobs import build_features, evaluate, train, tune
from jobs.cli import Stage, main, parser
from jobs.comparison import RIVALS, Summary, Trained, best_nfm, by_table, line, spread, tables
from jobs.session import spark_session
from nfm.bundle import Bundle, load_bundle
from nfm.launch.study import BEST
from nfm.lifeline import end_with_parent
from nfm.registry import LATEST, resolve_bundle
from nfm.run_log import METRICS

MODELS: dict[str, dict[str, Any]] = yaml.safe_load(
    files("jobs").joinpath("comparison.yaml").read_text()
)
PAGE = "comparison.md"
SEEDS = (1, 2, 3)
EXAMPLES = """\
  python -m jobs.compare --config X.yaml --dry-run
  python -m jobs.compare --config X.yaml --set tune.trials=20"""
# Of the jobs that are called here.
_OPTIONS = argparse.Namespace(
    **{"resume": None, "overwrite": True, "bundle": LATEST},
    **{"ds_from": None, "ds_to": None, "base": None},
)
# One training to a core.
_ONE_CORE = {
    "train.launcher": "local",
    "train.hosts": None,
    "train.num_workers": 1,
    "train.threads_per_worker": 1,
    "evaluate.split": "test",
}

# Trains a peer's model of a config in a directory, from the one that pre-trained it; its metric.
Peer = Callable[[str, Config, Path, Path | None], float | None]


def run(config: Config, options: argparse.Namespace) -> list[Stage]:
    """Build the features unless they are there, compare, and write the page."""
    root, start = _root(config), time.monotonic()
    stages = []
    if not storage.exists(f"{config.features.path}/{FILE_NAME}"):
        stages = [build_features.run(config, _OPTIONS)]
        spark_session(config.spark).stop()
    rows = train.manifest_of(config).splits["train"].rows
    (summaries,) = by_table(compare([config])).values()
    storage.write_text(str(root / PAGE), "\n\n".join(tables(summaries)) + "\n")
    nfm = best_nfm(summaries)
    verdicts = {rival: nfm.beside(summaries[rival].figures)[-1] for rival in RIVALS}
    facts = {f"{name} test {s.first.metric}": spread(s.figures) for name, s in summaries.items()}
    facts |= {
        f"{nfm.first.model} beside {rival}": verdict.strip("*")
        for rival, verdict in verdicts.items()
    }
    seconds = time.monotonic() - start
    return [*stages, Stage("compare", rows, None, rows, seconds, str(root / PAGE), facts)]


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What would be trained."""
    root = _root(config)
    assert config.tune
    there = storage.exists(f"{config.features.path}/{FILE_NAME}")
    if there:
        train.manifest_of(config)
    lines = [] if there else [*build_features.plan(config, _OPTIONS), "then"]
    for name, own in MODELS.items():
        section = study_config(config, name).tune
        assert section
        tried = section.space.keys() - set(own.get("ignores", ()))
        lines.append(f"  {name}: {', '.join(key for key in section.space if key in tried)}")
    lines.append(
        f"compare: {config.tune.trials} trials each, then {len(SEEDS)} seeds, judged by "
        f"{config.train.early_stopping.metric} -> {root / PAGE}"
    )
    return lines


def compare(configs: Sequence[Config], peer: Peer | None = None) -> list[Trained]:
    """What comes out for every config and model, in their order.

    Args:
        configs: Tables with their features and their tune sections; of different names.
        peer: Trains a peer's model of the same config; a function of a module, which other
            processes can import.
    """
    context = multiprocessing.get_context("spawn")
    cores = os.sched_getaffinity(0)
    free: Queue[int] = context.Queue()
    for core in cores:
        free.put(core)
    units = dict[tuple[str, str], Future[list[Trained]]]()
    pool = ProcessPoolExecutor(len(cores), context, _begin, (free,))
    try:
        # Those that begin from another's bundle come last, when it is there.
        for name in sorted(MODELS, key=lambda name: "begins_from" in MODELS[name]):
            for config in configs:
                if before := MODELS[name].get("begins_from"):
                    units[config.name, before].result()
                unit = pool.submit(_tune_and_train, config, name, peer)
                unit.add_done_callback(_say)
                units[config.name, name] = unit
        return [run for c in configs for name in MODELS for run in units[c.name, name].result()]
    except BaseException:
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _root(config: Config) -> Path:
    """The directory that everything goes to."""
    if config.tune is None:
        raise ConfigError(
            "the config has no tune section: give its path, its trials and the space of all "
            "models (docs/tuning.md has one)"
        )
    return Path(config.tune.path)


def _begin(free: "Queue[int]") -> None:
    """Give a process of the pool a core of its own."""
    end_with_parent()
    os.sched_setaffinity(0, {free.get()})


def _say(unit: Future[list[Trained]]) -> None:
    if not unit.cancelled() and not unit.exception():
        print(line(Summary(unit.result())), flush=True)


def _tune_and_train(config: Config, name: str, peer: Peer | None) -> list[Trained]:
    """Find a model's hyperparameters, train it with the best ones for each seed, and so a peer."""
    place = _root(config) / name
    place.mkdir(parents=True, exist_ok=True)
    with (
        (place / "log").open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            return _of_model(config, name, place, peer)
        except PipelineError as error:
            raise type(error)(f"{name}: {error}; what it said is in {place}/log") from error


def _of_model(config: Config, name: str, place: Path, peer: Peer | None) -> list[Trained]:
    root, own = _root(config), MODELS[name]
    study = override_config(study_config(config, name), _start(root, own, 1), name)
    assert study.tune
    tune.run(study, _OPTIONS)
    best = f"{study.tune.path}/{BEST}"
    found = load_config(best)
    configs = {
        seed: override_config(found, {**_of_seed(place, seed), **_start(root, own, seed)}, best)
        for seed in SEEDS
    }
    ours = {seed: _train(of_seed) for seed, of_seed in configs.items()}
    before = own.get("begins_from")
    theirs = {
        seed: peer(
            name, of_seed, _peer(place, seed), _peer(root / before, seed) if before else None
        )
        for seed, of_seed in configs.items()
        if peer
    }
    used = study.tune.space.keys() - set(own.get("ignores", ()))
    chosen = {key: value_of(found, key) for key in study.tune.space if key in used}
    metric = config.train.early_stopping.metric
    about = partial(Trained, chosen=chosen, trials=study.tune.trials, config=best)
    return [
        about(config.name, name, seed, metric, *ours[seed], peer=theirs.get(seed)) for seed in SEEDS
    ]


def study_config(config: Config, name: str) -> Config:
    """A model's study: the table's config, with what tells it from those of the others."""
    root, own = _root(config), MODELS[name]
    assert config.tune
    space = config.tune.model_dump(mode="json")["space"] | own.get("space", {})
    if "begins_from" in own:
        space.pop("model.embedding_dim", None)
    place = root / name
    paths = {"train.path": place, "train.work_path": place / "work", "tune.path": place / "study"}
    values = {key: str(path) for key, path in paths.items()} | {"tune.space": space}
    return override_config(config, {**_ONE_CORE, **own["set"], **values}, name)


def _of_seed(place: Path, seed: int) -> dict[str, Any]:
    return {
        "train.seed": seed,
        "train.path": f"{place}/seed-{seed}/models",
        "evaluate.path": f"{place}/seed-{seed}/reports",
    }


def _start(root: Path, own: dict[str, Any], seed: int) -> dict[str, Any]:
    """Where a model begins that another one pre-trains."""
    if "begins_from" not in own:
        return {}
    bundle = resolve_bundle(f"{root}/{own['begins_from']}/seed-{seed}/models", LATEST)
    dim = load_bundle(bundle).config.model.embedding_dim
    return {"train.init_from": bundle, "model.embedding_dim": dim}


def _peer(place: Path, seed: int) -> Path:
    """Directory of what a peer trains."""
    return place / f"seed-{seed}" / "peer"


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


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    return parser(__doc__, EXAMPLES)


if __name__ == "__main__":
    main(arguments(), run, plan)
