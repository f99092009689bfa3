"""Search for the hyperparameters of a model: built features -> the best config.

Every trial is a training like those of ``jobs.train``, with some values set, and publishes nothing.
"""

import argparse
import logging
import time

from conf import storage
from conf.lock import locked
from conf.manifest import Manifest
from conf.schema import Config
from jobs import train
from jobs.cli import Stage, figure, main, parser
from nfm.launch.study import BEST, STORAGE, Study, Trial, check_study
from nfm.launch.supervisor import launch
from nfm.trainer import Result
from nfm.validation import NotFiniteError

EXAMPLES = """\
  python -m jobs.tune --config conf/movielens100k.yaml --set tune.trials=30
  python -m jobs.train --config build/demo/study/best.yaml"""

logger = logging.getLogger("jobs")


def run(config: Config, options: argparse.Namespace) -> Stage:
    """Train the trials that are left, print all, and say which is the best."""
    start, rows = time.monotonic(), 0
    manifest = train.manifest_of(config)
    path = check_study(config, manifest).path
    fs, plain = storage.filesystem(path)
    fs.makedirs(plain, exist_ok=True)
    with locked(f"{plain}/lock", path):
        study = Study(config, manifest)
        for trial in study.trials():
            result = _train(trial, manifest, study)
            rows += result.rows if result else 0
        best, table = study.best(), study.table()
        if storage.exists(str(study.runs)):
            storage.remove(str(study.runs))
    print(f"\n{table.to_string(index=False, float_format='%.5g', na_rep='-')}")
    metric = config.train.early_stopping.metric
    found = table.loc[best.number - 1, f"valid_{metric}"]
    facts = {"trials": f"{len(table)}, best {best.number}", f"valid {metric}": figure(found)}
    facts |= {key: str(value) for key, value in best.values.items()}
    trained = manifest.splits["train"].rows
    return Stage("tune", trained, None, rows, time.monotonic() - start, f"{path}/{BEST}", facts)


def _train(trial: Trial, manifest: Manifest, study: Study) -> Result | None:
    """Train one trial, or go on with it, and tell the study; None if it diverged."""
    start = time.monotonic()
    config = train.with_bundle(trial.config)
    logger.info("trial %d: %s", trial.number, trial.values)
    result = None
    try:
        result = launch(
            config,
            manifest,
            trial.run,
            resume=trial.run.exists(),
            start=train.starter(config),
            again="the same command goes on with the study",
        )
    except NotFiniteError:
        logger.warning("trial %d diverged, and counts as failed", trial.number)
    study.tell(result, time.monotonic() - start)
    storage.remove(str(trial.run))
    return result


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What would be tried."""
    manifest = train.manifest_of(config)
    tune, stopping = check_study(config, manifest), config.train.early_stopping
    begun = storage.exists(f"{tune.path}/{STORAGE}")
    return [
        f"tune: {config.features.path} -> {tune.path}",
        f"{tune.trials} trials with seed {tune.seed}, judged by valid {stopping.metric}",
        *(f"  {key}: {dimension}" for key, dimension in tune.space.items()),
        f"{config.train.num_workers} workers ({config.train.launcher}) and at most "
        f"{config.train.epochs} epochs each",
        *(["goes on with the study that is there"] if begun else []),
    ]


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    train.add_arguments(made)
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
