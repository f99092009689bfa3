"""The models of a table, each tuned and trained with three seeds, beside each other.

A study per model, and the trainings with its best config, in processes that have a core each. What
was trained is found again by its config, so it goes on after any end.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from conf import storage
from conf.errors import ConfigError, RunError
from conf.loader import load_config, override_config, value_of
from conf.manifest import FILE_NAME
from conf.schema import Config
from jobs import build_features, evaluate, train, tune
from jobs.cli import explained
from jobs.cores import pool_of_cores
from jobs.results import Summary, Trained, line
from jobs.session import spark_session
from nfm.bundle import Bundle, load_bundle
from nfm.launch.run_directory import differing_keys
from nfm.launch.study import BEST, check_study
from nfm.registry import LATEST, resolve_bundle
from nfm.run_log import METRICS

MODELS: dict[str, dict[str, Any]] = yaml.safe_load(
    files("jobs").joinpath("comparison.yaml").read_text()
)
SEEDS = (1, 2, 3)
# Of the jobs that are called here.
OPTIONS = argparse.Namespace(
    **{"resume": None, "overwrite": True, "bundle": LATEST},
    **{"ds_from": None, "ds_to": None, "base": None},
)
# One training to a core, from nothing, judged on the test rows; what a comparison has no use for.
_ALIKE = {
    "train.launcher": "local",
    "train.hosts": None,
    "train.num_workers": 1,
    "train.threads_per_worker": 1,
    "train.init_from": None,
    "evaluate.split": "test",
    "score.explain": 0,
}
# Theirs alone: not for the space.
_OURS = {"model.name", "train.seed", *_ALIKE}


@dataclass(frozen=True)
class Peer:
    """What trains the same models beside ours, with the same hyperparameters and seeds.

    Attributes:
        train: Trains the model of a config in a directory, from the one that pre-trained it, and
            returns its metric, if it did train; a function of a module, which other processes can
            import.
        models: Those that it has.
        seeds: Of these, ``SEEDS`` and others, for two systems are harder to tell apart than models.
    """

    train: Callable[[Config, Path, Path | None], float | None]
    models: Sequence[str]
    seeds: Sequence[int]


def compare(configs: Sequence[Config], peer: Peer | None = None) -> list[Trained]:
    """What comes out for every config and model, in their order.

    Args:
        configs: Tables with their tune sections; of different names.
        peer: Trains beside ours.

    Raises:
        ConfigError: A config has no tune section, or a space that some model cannot have; or the
            directory has the comparison of another config.
        PipelineError: A training failed; names the model.
    """
    studies = [study_config(config, name) for config in configs for name in MODELS]
    for config in configs:
        if not storage.exists(f"{config.features.path}/{FILE_NAME}"):
            build_features.run(config, OPTIONS)
            spark_session(config.spark).stop()
    check_studies(studies)
    pool = pool_of_cores()
    try:
        # The longest ones first: a model after the one that it begins from.
        units = [
            pool.submit(tune_and_train, config, names, peer)
            for names in sorted(_chains(), key=len, reverse=True)
            for config in configs
        ]
        found = dict[tuple[str, str], list[Trained]]()
        for unit in as_completed(units):
            for summary in map(Summary, unit.result()):
                found[summary.first.table, summary.first.model] = list(summary.runs)
                print(line(Summary(summary.runs[: len(SEEDS)])), flush=True)
        return [run for config in configs for name in MODELS for run in found[config.name, name]]
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a process that trained was killed from outside, as for want of memory; the same "
                "command goes on"
            ) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def root_of(config: Config) -> Path:
    """The directory that everything goes to."""
    if config.tune is None:
        raise ConfigError(
            "the config has no tune section: give its path, its trials and the space of all "
            "models (docs/tuning.md has one)"
        )
    return Path(config.tune.path)


def check_studies(studies: Iterable[Config]) -> None:
    """Refuse features or spaces that do not fit, before anything is trained."""
    for study in studies:
        check_study(study, train.manifest_of(study))


def _chains() -> list[list[str]]:
    """The models, each followed by those that begin from it."""
    return [
        [first, *(name for name in MODELS if MODELS[name].get("begins_from") == first)]
        for first in MODELS
        if "begins_from" not in MODELS[first]
    ]


def tried_of(study: Config, name: str) -> list[str]:
    """The keys of a study's space that mean something to the model."""
    assert study.tune
    return [key for key in study.tune.space if key not in MODELS[name].get("ignores", ())]


def tune_and_train(config: Config, names: Sequence[str], peer: Peer | None) -> list[list[Trained]]:
    """Find each model's hyperparameters, train it with the best for each seed, and so a peer."""
    found = []
    for name in names:
        place = root_of(config) / name
        place.mkdir(parents=True, exist_ok=True)
        with (
            (place / "log").open("a", buffering=1) as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                found.append(_of_model(config, name, place, peer))
            except Exception as error:
                if known := explained(error):
                    raise type(known)(f"{name}: {known}; its log is {place}/log") from error
                raise
    return found


def _of_model(config: Config, name: str, place: Path, peer: Peer | None) -> list[Trained]:
    root, before = root_of(config), MODELS[name].get("begins_from")
    study = study_config(config, name)
    if before:
        # Another bundle to begin from is another study.
        start = _start(root, before, SEEDS[0])
        of_bundle = f"{place}/study-{Path(start['train.init_from']).name}"
        study = override_config(study, {**start, "tune.path": of_bundle}, name)
    assert study.tune
    tune.run(study, OPTIONS)
    beside = peer if peer and name in peer.models else None
    seeds = beside.seeds if beside else SEEDS
    best = f"{study.tune.path}/{BEST}"
    found = load_config(best)
    configs = {
        seed: override_config(
            found,
            {**_of_seed(place, seed), **(_start(root, before, seed) if before else {})},
            best,
        )
        for seed in seeds
    }
    ours = {seed: train_and_judge(of_seed) for seed, of_seed in configs.items()}
    theirs = {
        seed: beside.train(
            of_seed, _peer(place, seed), _peer(root / before, seed) if before else None
        )
        for seed, of_seed in configs.items()
        if beside
    }
    # As wide as what it begins from.
    keys = [*tried_of(study, name), *(["model.embedding_dim"] if before else [])]
    chosen = {key: value_of(found, key) for key in keys}
    metric = config.train.early_stopping.metric
    about = partial(Trained, chosen=chosen, trials=study.tune.trials, config=best)
    return [
        about(config.name, name, seed, metric, *ours[seed], peer=theirs.get(seed)) for seed in seeds
    ]


def study_config(config: Config, name: str) -> Config:
    """A model's study: the table's config, with what tells it from those of the others.

    Raises:
        ConfigError: There is no tune section, its space has what a comparison sets itself, or the
            model cannot have the config.
    """
    root, own = root_of(config), MODELS[name]
    assert config.tune
    if ours := sorted(_OURS & config.tune.space.keys()):
        raise ConfigError(
            f"tune.space: {', '.join(ours)} is not for the trials of a comparison: leave it out"
        )
    space = config.tune.model_dump(mode="json")["space"] | own.get("space", {})
    settled = {*own["set"], *(["model.embedding_dim"] if "begins_from" in own else [])}
    space = {key: tried for key, tried in space.items() if key not in settled}
    place = root / name
    paths = {"train.path": place, "train.work_path": place / "work", "tune.path": place / "study"}
    values = {key: str(path) for key, path in paths.items()} | {"tune.space": space}
    return override_config(config, {**_ALIKE, **own["set"], **values}, name)


def _of_seed(place: Path, seed: int) -> dict[str, Any]:
    return {
        "train.seed": seed,
        "train.path": f"{place}/seed-{seed}/models",
        "evaluate.path": f"{place}/seed-{seed}/reports",
    }


def _start(root: Path, before: str, seed: int) -> dict[str, Any]:
    """Where a model begins that another one pre-trains."""
    bundle = resolve_bundle(f"{root}/{before}/seed-{seed}/models", LATEST)
    dim = load_bundle(bundle).config.model.embedding_dim
    return {"train.init_from": bundle, "model.embedding_dim": dim}


def _peer(place: Path, seed: int) -> Path:
    """Directory of what a peer trains."""
    return place / f"seed-{seed}" / "peer"


def train_and_judge(config: Config) -> tuple[dict[str, float], float, int, float]:
    """Test metrics, validation metric, parameters and seconds per epoch of a training.

    What was trained with this config in its ``train.path`` is not trained again.
    """
    bundle = _bundle_of(config)
    if bundle is None:
        train.run(config, OPTIONS)
        bundle = _bundle_of(config)
    assert bundle
    evaluate.run(config, OPTIONS)
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
        bundle.manifest.splits["train"].rows / statistics.median(rates or [math.nan]),
    )


def _bundle_of(config: Config) -> Bundle | None:
    """The bundle that was trained with this config, if it is there."""
    with contextlib.suppress(ConfigError):
        bundle = load_bundle(resolve_bundle(config.train.path, LATEST))
        if not differing_keys(bundle.config, train.with_bundle(config)):
            return bundle
    return None
