"""The bundles of a run: list them, promote one to an alias, take that back, say if one is due."""

import argparse
import json
import sys
from datetime import UTC, datetime

from conf import storage
from conf.errors import ConfigError, DataError, PipelineError
from conf.loader import load_config
from conf.schema import Config
from jobs.cli import Stage, figure, main, parser
from nfm.bundle import CONFIG, METRICS, load_bundle
from nfm.gate import hold_gate, judged_metric
from nfm.registry import (
    ALIASES,
    CANDIDATE,
    SERVING,
    Gate,
    Promotion,
    bundles,
    now,
    promote,
    read_alias,
    resolve_bundle,
    roll_back,
    still_there,
    trained_at,
)

NOT_DUE = 99  # what Airflow's own operators take for: skip
EXAMPLES = """\
  python -m jobs.models list --config conf/movielens100k.yaml
  python -m jobs.models promote candidate --config conf/movielens100k.yaml --dry-run
  python -m jobs.models promote latest --to candidate --config conf/movielens100k.yaml
  python -m jobs.models rollback --config conf/movielens100k.yaml"""
_SHOWN = ("auc", "gauc", "logloss", "rmse")


def run(config: Config, options: argparse.Namespace) -> list[Stage]:
    """Do what the command says, and say what was done."""
    print("\n".join(plan(config, options)))
    if options.command == "due" and not _due(config)[0]:
        sys.exit(NOT_DUE)
    return []


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What the command does, or with --dry-run would do: all but to write anything."""
    if options.bundle and options.command != "promote":
        raise ConfigError(f"{options.command} takes no bundle")
    if options.command == "list":
        return _listing(config)
    if options.command == "due":
        return [_due(config)[1]]
    if options.command == "rollback":
        return _roll_back(config, options)
    return _promote(config, options)


def _promote(config: Config, options: argparse.Namespace) -> list[str]:
    models, alias = config.train.path, options.to
    if options.bundle is None:
        raise ConfigError("which bundle is to be promoted? Name it: an id, latest or candidate")
    path = resolve_bundle(models, options.bundle)
    model_id = path.rpartition("/")[2]
    if path != storage.absolute(f"{models}/{model_id}"):
        raise ConfigError(f"an alias names a bundle of '{models}'; copy '{path}' there first")
    named = read_alias(models, alias)
    before = named.model_id if named else None
    if before == model_id:
        return [f"{alias}: {model_id}, as it was"]
    gate, reason = None, "promoted"
    if alias == SERVING:
        gate, reason = _pass_gate(config, options, path, before)
    if gate is None:
        load_bundle(path)  # a damaged one is not promoted, even by force
    promotion = Promotion(model_id=model_id, since=now(), reason=reason, gate=gate)
    if not options.dry_run:
        promote(models, alias, promotion, before)
    return [
        *(check.line() for check in (gate.checks if gate else [])),
        f"{alias}: {model_id}, {reason}; before: {before or 'none'}",
    ]


def _pass_gate(
    config: Config, options: argparse.Namespace, path: str, before: str | None
) -> tuple[Gate | None, str]:
    """The gate, if it could be held, and why the bundle is promoted."""
    try:
        serving = resolve_bundle(config.train.path, SERVING) if before else None
        gate = hold_gate(path, serving, config)
    except (ConfigError, DataError) as error:
        if not options.force:
            raise
        return None, f"forced, where no gate could be held ({error})"
    if not options.dry_run:
        storage.make_directory(config.evaluate.path)
        storage.write_text(_report(config, gate.model_id), gate.model_dump_json(indent=1) + "\n")
    if gate.passed:
        return gate, "promoted"
    if options.force:
        return gate, "forced"
    lines = "\n  ".join(check.line() for check in gate.checks)
    raise DataError(
        f"'{gate.model_id}' does not pass the gate on {gate.rows:,} rows of '{gate.split}' in "
        f"'{gate.features}':\n  {lines}\n'{SERVING}' names {before or 'no bundle'} as before; "
        f"train a better one, or promote with --force"
    )


def _roll_back(config: Config, options: argparse.Namespace) -> list[str]:
    models, alias = config.train.path, options.to
    if options.dry_run:
        names = [promotion.model_id for promotion in still_there(models, read_alias(models, alias))]
        return [f"{alias}: would go back to {', then '.join(names) or 'nothing: none before'}"]
    named = roll_back(models, alias)
    return [f"{alias}: {named.model_id}, {named.reason}"]


def _due(config: Config) -> tuple[bool, str]:
    """Whether the newest bundle is old enough for another training, and the answer in words."""
    if config.nightly is None:
        raise ConfigError("nightly.train_every_days says when a training is due; set it")
    every = config.nightly.train_every_days
    times = [time for name in bundles(config.train.path) if (time := trained_at(name))]
    if not times:
        return True, "a training is due: there is no bundle yet"
    age = (datetime.now(UTC).date() - max(times).date()).days
    due = age >= every
    return due, f"{'a' if due else 'no'} training is due: the newest bundle is {age} days old, " + (
        f"and may be {every - 1}" if due else f"and one follows when it is {every}"
    )


def _report(config: Config, model_id: str) -> str:
    return f"{config.evaluate.path}/{model_id}-gate.json"


def _listing(config: Config) -> list[str]:
    """A table of the bundles, the newest last, and what the aliases name."""
    models = config.train.path
    named = {alias: found for alias in ALIASES if (found := read_alias(models, alias))}
    rows: list[tuple[str, ...]] = [("bundle", "model", "alias", "trained", "validation", "gate")]
    for model_id in bundles(models):
        aliases = [alias for alias, found in named.items() if found.model_id == model_id]
        rows.append((model_id, *_described(config, model_id, ", ".join(aliases))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for alias, found in named.items():
        gone = "" if (found.model_id,) in {row[:1] for row in rows} else ", which is gone"
        earlier = ", ".join(promotion.model_id for promotion in found.earlier)
        lines.append(f"{alias}: {found.model_id}{gone}, {found.reason}, since {found.since}")
        lines.append(f"  before: {earlier or 'none'}")
    return lines


def _described(config: Config, model_id: str, aliases: str) -> tuple[str, ...]:
    """A bundle's columns after its id."""
    path = f"{config.train.path}/{model_id}"
    trained = f"{time:%Y-%m-%d %H:%M}" if (time := trained_at(model_id)) else "-"
    try:
        name = load_config(f"{path}/{CONFIG}").model.name
        metrics = json.loads(storage.read_text(f"{path}/{METRICS}"))
        gate = _last_gate(config, model_id)
    except (PipelineError, OSError, ValueError) as error:
        return "damaged", aliases, trained, type(error).__name__, ""
    names = dict.fromkeys([judged_metric(config), *_SHOWN])
    shown = [f"{name} {figure(metrics[name])}" for name in names if name in metrics]
    return name, aliases, trained, ", ".join(shown), gate


def _last_gate(config: Config, model_id: str) -> str:
    try:
        gate = Gate.model_validate_json(storage.read_text(_report(config, model_id)))
    except FileNotFoundError:
        return ""
    failed = [check for check in gate.checks if check.outcome == "fail"]
    found = ", ".join(f"{check.found} for {check.expected}" for check in failed)
    return f"failed: {found}" if failed else "passed"


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    made.add_argument(
        "command",
        choices=("list", "promote", "rollback", "due"),
        help="list: the bundles, their metrics, and what the aliases name; promote: have an alias "
        f"name a bundle, '{SERVING}' if it passes the gate; rollback: have it name the one before, "
        "and again, the one before that; due: exit 0 if a training is due by "
        f"nightly.train_every_days, else {NOT_DUE}",
    )
    made.add_argument("bundle", nargs="?", help=f"to promote: id, 'latest' or '{CANDIDATE}'")
    made.add_argument(
        "--to", choices=ALIASES, default=SERVING, help=f"the alias (default: {SERVING})"
    )
    made.add_argument(
        "--force", action="store_true", help="promote what fails the gate, and record it"
    )
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
