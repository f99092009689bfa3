"""Judge a bundle on a split: bundle + features -> metrics and a report."""

import argparse
import json
import time

from conf import publishing, storage
from conf.loader import dump_config
from conf.manifest import read_manifest
from conf.schema import Config
from jobs.cli import Stage, figure, main, parser
from nfm.bundle import load_bundle
from nfm.evaluation import Table, check_evaluable, evaluate_split
from nfm.registry import LATEST, resolve_bundle

REPORT = "report.json"
_SHOWN = 5  # values of a segment's field
EXAMPLES = """\
  python -m jobs.evaluate --config conf/movielens100k.yaml
  python -m jobs.evaluate --config conf/movielens100k.yaml --bundle build/demo/models/ID \\
      --set evaluate.split=valid"""


def run(config: Config, options: argparse.Namespace) -> Stage:
    """Evaluate and write the report."""
    start = time.monotonic()
    bundle = load_bundle(resolve_bundle(config.train.path, options.bundle))
    manifest = read_manifest(config.features.path)
    split = config.evaluate.split
    path = f"{config.evaluate.path}/{bundle.model_id}-{split}"
    publishing.refuse_existing(path, overwrite=options.overwrite, proof=REPORT)
    found = evaluate_split(bundle, config.features.path, manifest, config.evaluate)
    report = {
        **{"model_id": bundle.model_id, "features": config.features.path, "split": split},
        **found.metrics,
        **{"reliability": found.reliability, "segments": found.segments},
    }
    with publishing.staged_directory(path, overwrite=options.overwrite, proof=REPORT) as staging:
        storage.write_text(f"{staging}/{REPORT}", json.dumps(report, indent=1) + "\n")
        storage.write_text(f"{staging}/config.yaml", dump_config(config))
    rows = manifest.splits[split].rows
    facts = {f"{split} {name}": figure(value) for name, value in found.metrics.items()}
    for field, table in found.segments.items():
        facts |= _largest(field, table)
    return Stage("evaluate", rows, None, rows, time.monotonic() - start, path, facts)


def _largest(field: str, table: Table) -> dict[str, str]:
    """A line for each of the values of a field with most rows, and one for the others."""
    lines = {}
    for row in table[:_SHOWN]:
        shown = [f"{name} {figure(row[name])}" for name in ("auc", "rmse") if name in row]
        lines[f"{field} {row['value']}"] = f"{', '.join(shown)} ({row['rows']:,} rows)"
    others = len(table) - _SHOWN
    if others > 0:
        lines[f"{field}, others"] = f"{others:,} more values in {REPORT}"
    return lines


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What would be judged on what."""
    bundle = load_bundle(resolve_bundle(config.train.path, options.bundle))
    manifest = read_manifest(config.features.path)
    check_evaluable(bundle, config.features.path, manifest, config.evaluate)
    path = f"{config.evaluate.path}/{bundle.model_id}-{config.evaluate.split}"
    publishing.refuse_existing(path, overwrite=options.overwrite, proof=REPORT)
    rows = manifest.splits[config.evaluate.split].rows
    return [
        f"evaluate: {bundle.model_id} on {rows:,} rows of '{config.evaluate.split}' "
        f"in {config.features.path} -> {path}"
    ]


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    made.add_argument(
        "--bundle", default=LATEST, help="id, path, 'serving', 'candidate' or 'latest' (default)"
    )
    made.add_argument("--overwrite", action="store_true", help="replace a report that exists")
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
