"""Train the model on built features with Horovod workers: manifest -> bundle."""

import argparse
import logging
import time
from pathlib import Path

from conf import storage
from conf.errors import ConfigError, RunError
from conf.manifest import CONFIGURED, FieldSpec, Manifest, read_manifest
from conf.schema import Config
from feature_eng.fields import unfitted_specs
from jobs.cli import Stage, figure, main, parser
from jobs.session import spark_session
from jobs.spark_workers import workers_in_spark
from nfm.bundle import load_bundle, new_model_id, write_bundle
from nfm.checkpoint import CHECKPOINTS, directory_of, read_scores, read_weights
from nfm.checkpoint_keeper import damage
from nfm.epoch_plan import plan_epoch
from nfm.launch.forked import start_forked
from nfm.launch.gang import StartGang, start_horovodrun
from nfm.launch.run_directory import NEWEST, run_to_resume
from nfm.launch.supervisor import launch
from nfm.registry import resolve_start
from nfm.trainer import Result
from nfm.worker import RESULT

EXAMPLES = """\
  python -m jobs.train --config conf/movielens100k.yaml --num-workers 2
  python -m jobs.train --config conf/movielens100k.yaml --set train.epochs=5 --dry-run
  python -m jobs.train --config conf/movielens100k.yaml --hosts a:2,b:2
  python -m jobs.train --config conf/movielens100k.yaml --init-from latest
  python -m jobs.train --config conf/movielens100k.yaml --resume"""

logger = logging.getLogger("jobs")


def run(config: Config, options: argparse.Namespace) -> Stage:
    """Train or go on, publish the bundle of the best epoch, and say what came out."""
    start = time.monotonic()
    config = with_bundle(config)
    if config.model.name == "fnn" and config.train.init_from is None:
        logger.warning(
            "fnn begins from random embeddings: as published it begins from a trained fm's, by "
            "train.init_from"
        )
    manifest = manifest_of(config)
    begun = run_to_resume(config, manifest, options.resume) if options.resume else None
    work = begun or Path(config.train.work_path) / new_model_id(config)
    result = launch(config, manifest, work, resume=begun is not None, start=starter(config))
    best = checkpoint_of(result, work)
    path = f"{config.train.path}/{work.name}"
    metrics = {"best_epoch": result.best_epoch, **result.metrics}
    write_bundle(path, config, manifest, read_weights(best), metrics, read_scores(best))
    storage.remove(str(work / CHECKPOINTS))
    facts = {f"valid {name}": figure(value) for name, value in result.metrics.items()}
    facts |= {"epochs": f"{result.epochs}, best {result.best_epoch + 1}", "logs": str(work)}
    rows = manifest.splits["train"].rows
    return Stage("train", rows, None, result.rows, time.monotonic() - start, path, facts)


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What every worker would read."""
    config = with_bundle(config)
    manifest = manifest_of(config)
    begun = run_to_resume(config, manifest, options.resume) if options.resume else None
    train = manifest.splits["train"]
    epoch = plan_epoch(
        [file.rows for file in train.files],
        world_size=config.train.num_workers,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        epoch=0,
        shuffle_rows=config.train.shuffle_rows,
    )
    return [
        f"train: {config.features.path} -> {config.train.path}",
        f"{config.model.name} on {len(manifest.fields)} fields, {manifest.num_features:,} features",
        f"{config.train.num_workers} workers ({config.train.launcher}), "
        f"at most {config.train.epochs} epochs of {epoch.steps} steps",
        *(
            f"  worker {rank}: {sum(len(block.files) for block in blocks)} files, {rows:,} rows"
            for rank, (blocks, rows) in enumerate(zip(epoch.blocks, epoch.rows, strict=True))
        ),
        *([f"begins from '{config.train.init_from}'"] if config.train.init_from else []),
        *([f"goes on with '{begun}'"] if begun else []),
    ]


def checkpoint_of(result: Result, work: Path) -> Path:
    """The checkpoint of the best epoch, held against its checksums.

    Raises:
        RunError: It is damaged. Whoever goes on trains again from the newest one before it.
    """
    best = directory_of(work / CHECKPOINTS, result.best_step)
    if found := damage(best):
        (work / RESULT).unlink()
        raise RunError(
            f"the checkpoint of the best epoch, '{best}', is damaged ({found}): nothing was "
            f"published; `jobs.train --resume {work.name}` trains again from the one before"
        )
    return best


def starter(config: Config) -> StartGang:
    """What starts the workers where the config has them run."""
    if config.train.launcher == "spark":
        return workers_in_spark(spark_session(config.spark).sparkContext)
    if config.train.launcher == "local" and config.train.num_workers == 1:
        return start_forked
    return start_horovodrun


def with_bundle(config: Config) -> Config:
    """The config with the full path of the bundle to begin from, which must fit the model.

    An alias that names no bundle yet is none to begin from.
    """
    name = config.train.init_from
    path = resolve_start(config.train.path, name) if name else None
    if path is not None:
        found, wanted = load_bundle(path).config.model.factors, config.model.factors
        if found != wanted:
            raise ConfigError(
                f"bundle '{path}' has embeddings of {found} factors, the config wants {wanted}: "
                f"set model.embedding_dim={found}, or train without train.init_from"
            )
    train = config.train.model_copy(update={"init_from": path})
    return config.model_copy(update={"train": train})


def manifest_of(config: Config) -> Manifest:
    """The manifest of the features, which must be those that the configuration describes."""
    manifest = read_manifest(config.features.path)
    wanted = [_description(spec) for spec in unfitted_specs(config.fields)]
    found = [_description(spec) for spec in manifest.fields]
    ours = config.task, config.label, config.weight, wanted
    if ours != (manifest.task, manifest.label, manifest.weight, found):
        raise ConfigError(
            f"the task, label, weight or fields of the config are not those that "
            f"'{config.features.path}' was built with; build the features again, or train with "
            f"their config.yaml"
        )
    return manifest


def _description(spec: FieldSpec) -> tuple[object, ...]:
    return spec.name, *(getattr(spec, key) for key in CONFIGURED)


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options that only training has: short for a --set each."""
    for option, key in (
        ("--launcher", "train.launcher"),
        ("--num-workers", "train.num_workers"),
        ("--init-from", "train.init_from"),
    ):
        made.add_argument(
            option,
            dest="overrides",
            action="append",
            type=f"{key}={{}}".format,
            metavar=key.rpartition(".")[2].upper(),
            help=f"short for --set {key}=...",
        )
    made.add_argument(
        "--hosts",
        dest="overrides",
        action="extend",
        type=lambda hosts: ["train.launcher=hosts", f"train.hosts={hosts}"],
        help="workers per machine, a:2,b:2; short for --set train.launcher=hosts and train.hosts",
    )
    made.set_defaults(resume=None)


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    add_arguments(made)
    made.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="MODEL_ID",
        help="go on with a training that ended early, from its last checkpoint, with any number "
        "of workers; default: the newest with this config",
    )
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
