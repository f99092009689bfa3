"""A study: the trials of a search for hyperparameters, in a directory that outlives its launchers.

It holds ``study.sqlite3`` (Optuna's storage), the configuration and the manifest that all trials
share, ``trials.csv`` and, as soon as a trial came out well, ``best.yaml``.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from conf import storage
from conf.errors import ConfigError, DataError, RunError
from conf.evaluation import HIGHER_IS_BETTER
from conf.loader import dump_config, load_config, override_config, value_of
from conf.manifest import Manifest, read_manifest, write_manifest
from conf.schema import Config
from conf.tuning import Dimension, TuneConfig
from nfm.bundle import load_bundle
from nfm.launch.run_directory import differing_keys
from nfm.registry import resolve_start
from nfm.trainer import Result

STORAGE, CONFIG, TRIALS, BEST = "study.sqlite3", "config.yaml", "trials.csv", "best.yaml"

# Before TPE goes by what came out, the first trial among them; Optuna's default of 10 may be all.
_RANDOM_TRIALS = 5
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Trial:
    """One training of a study.

    Attributes:
        number: From 1.
        values: What it sets, by dotted key.
        config: All that it is trained with.
        run: Directory of the training, which may have begun.
    """

    number: int
    values: dict[str, Any]
    config: Config
    run: Path


class Study:
    """The trials of a config with a ``tune`` section; for one process at a time.

    The values of a trial depend on the seed and the trials before it alone, so it does not matter
    when a study was stopped: the trial that was under way is asked for again.

    Args:
        config: What all trials share.
        manifest: The data.

    Raises:
        ConfigError: See ``check_study``.
        DataError: See ``check_study``.
    """

    def __init__(self, config: Config, manifest: Manifest) -> None:
        self._config, self._tune = config, check_study(config, manifest)
        self._path = Path(self._tune.path)
        self._path.mkdir(parents=True, exist_ok=True)
        self._metric = config.train.early_stopping.metric
        self._study = optuna.create_study(
            storage=f"sqlite:///{self._path.absolute()}/{STORAGE}",
            study_name=config.name,
            direction="maximize" if HIGHER_IS_BETTER[self._metric] else "minimize",
            load_if_exists=True,
        )
        if "runs" not in self._study.user_attrs:
            began = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
            self._study.set_user_attr("runs", f"{config.train.work_path}/{began}-study")
        self.runs = Path(self._study.user_attrs["runs"])
        for killed in self._trials(TrialState.RUNNING):
            self._study.tell(killed.number, state=TrialState.FAIL)
        storage.write_text(f"{self._path}/{CONFIG}", dump_config(config))
        write_manifest(str(self._path), manifest)
        self._publish()  # a kill may have come between a trial's end and its publication

    def trials(self) -> Iterator[Trial]:
        """What is left to try; tell how each one ended before asking for the next."""
        while (number := len(self._trials(*_ENDED)) + 1) <= self._tune.trials:
            self._asked = self._ask(number)
            for key, dimension in self._tune.space.items():
                _suggest(self._asked, key, dimension)
            yield self._trial(number, self._asked.params)

    def tell(self, result: Result | None, seconds: float) -> None:
        """Note how the trial that was asked for ended, and write the table and the best config.

        Args:
            result: What it came to; None if it diverged.
            seconds: Time it took.
        """
        self._asked.set_user_attr("seconds", seconds)
        if result is None:
            self._study.tell(self._asked, state=TrialState.PRUNED)
        else:
            self._asked.set_user_attr("result", asdict(result))
            self._study.tell(self._asked, result.metrics[self._metric])
        self._publish()

    def best(self) -> Trial:
        """The trial with the best metric.

        Raises:
            RunError: There is none.
        """
        if not self._trials(TrialState.COMPLETE):
            raise RunError(
                f"all of {self._tune.trials} trials diverged: lower the learning rates in "
                f"tune.space, and choose another tune.path"
            )
        best = self._study.best_trial
        number = [trial.number for trial in self._trials(*_ENDED)].index(best.number) + 1
        return self._trial(number, best.params)

    def table(self) -> pd.DataFrame:
        """One row per trial: the metrics of its best epoch, epochs, seconds and what it set."""
        rows = []
        for number, trial in enumerate(self._trials(*_ENDED), 1):
            result = trial.user_attrs.get("result", {"metrics": {}})
            metrics = {f"valid_{name}": value for name, value in result["metrics"].items()}
            rows.append(
                {"trial": number, "state": "done" if metrics else "diverged", **metrics}
                | {"epochs": result.get("epochs"), "seconds": trial.user_attrs["seconds"]}
                | trial.params
            )
        return pd.DataFrame(rows)

    def _publish(self) -> None:
        if self._trials(TrialState.COMPLETE):
            storage.write_text(f"{self._path}/{BEST}", dump_config(self.best().config))
        if self._trials(*_ENDED):
            storage.write_text(f"{self._path}/{TRIALS}", self.table().to_csv(index=False))

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _ask(self, number: int) -> optuna.Trial:
        seed = int(np.random.SeedSequence((self._tune.seed, number)).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
        self._study.sampler = sampler
        own = own_values(self._config, self._tune)
        if number == 1 and own and not self._trials(TrialState.WAITING):
            self._study.enqueue_trial(own)
        return self._study.ask()

    def _trial(self, number: int, params: dict[str, Any]) -> Trial:
        space = self._tune.space
        values = {k: json.loads(v) if space[k].choices else v for k, v in params.items()}
        config = override_config(self._config, {**values, "tune": None}, f"trial {number}")
        return Trial(number, values, config, self.runs / f"trial-{number}")


def check_study(config: Config, manifest: Manifest) -> TuneConfig:
    """Refuse a space that trials could not have, or a study of another config or of other data.

    Raises:
        ConfigError: There is no search space; a key or value in it is wrong; or the study in the
            directory has another config, but for the number of trials.
        DataError: The features were built anew since the study began.
    """
    tune = config.tune
    if tune is None:
        raise ConfigError("the config has no tune section: give its path and its space")
    name = config.train.init_from
    start = resolve_start(config.train.path, name) if name else None
    factors = load_bundle(start, check=False).config.model.factors if start else None
    for key, dimension in tune.space.items():
        for value in dimension.ends:
            wanted = override_config(config, {key: value, "tune": None}, f"tune.space: {key}")
            if factors not in (None, wanted.model.factors):
                raise ConfigError(
                    f"tune.space: {key}: with {value} the model has {wanted.model.factors} "
                    f"factors, and '{start}', which it begins from (train.init_from), has {factors}"
                )
    if not storage.exists(f"{tune.path}/{CONFIG}"):
        return tune
    before = load_config(f"{tune.path}/{CONFIG}")
    differing = differing_keys(before, config)
    differing += [
        f"tune.{k}" for k in ("seed", "space") if getattr(before.tune, k) != getattr(tune, k)
    ]
    if differing:
        raise ConfigError(
            f"the config is not that of the study '{tune.path}': {', '.join(differing)} differ; "
            f"go on with what {tune.path}/{CONFIG} says, or choose another tune.path"
        )
    if read_manifest(tune.path) != manifest:
        raise DataError(
            f"'{config.features.path}' was built anew since the study '{tune.path}' began: choose "
            f"another tune.path"
        )
    return tune


def own_values(config: Config, tune: TuneConfig) -> dict[str, Any]:
    """The config's own values of the space's keys, for Optuna; without those it does not hold."""
    found = dict[str, Any]()
    for key, dimension in tune.space.items():
        value, low, high = value_of(config, key), dimension.low, dimension.high
        if low is None or high is None:
            for choice in dimension.choices or ():
                if override_config(config, {key: choice}, key) == config:  # it changes nothing
                    found[key] = json.dumps(choice)
        elif isinstance(value, int | float) and low <= value <= high:
            found[key] = value
    return found


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> None:
    """Have Optuna choose a value; it knows choices as JSON, for lists are none to it."""
    low, high = dimension.low, dimension.high
    if low is None or high is None:
        trial.suggest_categorical(key, [json.dumps(value) for value in dimension.choices or ()])
    elif isinstance(low, int) and isinstance(high, int):
        trial.suggest_int(key, low, high, log=dimension.log)
    else:
        trial.suggest_float(key, low, high, log=dimension.log)
