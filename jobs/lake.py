"""What the lake of scores holds of a day, and the removal of what does not count."""

import argparse
from collections import Counter
from collections.abc import Mapping

from conf.errors import ConfigError, DataError
from conf.partition import PartitionManifest
from conf.schema import Config
from conf.scoring import ScoreConfig
from feature_eng.lake import manifest_of
from feature_eng.lake.vacuum import vacuum
from jobs.cli import Stage, day, main, parser

EXAMPLES = """\
  python -m jobs.lake show --config conf/movielens100k.yaml --ds 1998-04-23
  python -m jobs.lake vacuum --config conf/movielens100k.yaml --dry-run"""

_WEEK_HOURS = 168


def run(config: Config, options: argparse.Namespace) -> list[Stage]:
    """Print what is there, or what was removed."""
    print("\n".join(plan(config, options)))
    return []


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What is there, or what is removed."""
    if options.action == "vacuum":
        return vacuumed(config.score, options.keep_hours, dry_run=options.dry_run)
    if options.ds is None:
        raise ConfigError("show needs the day: say --ds YYYY-MM-DD")
    manifest = manifest_of(config.score, options.ds)
    if manifest is None:
        raise DataError(
            f"no manifest speaks of the scores of {options.ds} in '{where(config.score)}': there "
            f"are none, or another hand changed them; score the day (jobs.score)"
        )
    return shown(config.score, manifest)


def where(config: ScoreConfig) -> str:
    """Where scores are published."""
    return config.table or config.path


def shown(config: ScoreConfig, manifest: PartitionManifest) -> list[str]:
    """A day's lineage, as lines."""
    source, files = manifest.source, manifest.files
    gates = Counter(check.outcome for check in manifest.checks)
    facts = {
        "scored": manifest.created_at,
        "run": manifest.run_id,
        "model": manifest.model_id,
        "vocabulary": manifest.vocabulary_fingerprint,
        "source": f"{source.name}, {source.rows:,} rows",
        "rows": f"{manifest.rows:,}",
        "config": manifest.config_fingerprint,
        "software": _listed(manifest.software),
        "seconds": _listed(manifest.seconds),
        "gates": f"{gates['pass']} pass, {gates['warn']} warn, {gates['fail']} fail"
        + (", published by --force" if manifest.forced else ""),
    }
    lines = [f"{manifest.ds} in {where(config)}"]
    lines += [f"  {name:<18}{value}" for name, value in facts.items()]
    lines += [f"    {check.line()}" for check in manifest.checks]
    lines.append(f"  {'files':<18}{len(files)}, {sum(file.bytes for file in files):,} bytes")
    lines += [f"    {file.path}: {file.rows:,} rows, {file.bytes:,} bytes" for file in files]
    return lines


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def vacuumed(config: ScoreConfig, keep_hours: int, *, dry_run: bool) -> list[str]:
    """Remove what does not count; what that was, as lines."""
    removed = vacuum(config, keep_hours, dry_run=dry_run)
    what = "would be removed" if dry_run else "removed"
    return [
        *(f"{what}: {part.path}, {part.bytes:,} bytes" for part in removed),
        f"vacuum of {config.path}: {len(removed)} {what}, "
        f"{sum(part.bytes for part in removed):,} bytes",
    ]


def hours(text: str) -> int:
    """A number of hours, for argparse."""
    if (number := int(text)) < 0:
        raise ValueError
    return number


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    made = parser(__doc__, EXAMPLES)
    made.add_argument(
        "action",
        choices=("show", "vacuum"),
        help="show: where the scores of --ds come from, and what the gates found; vacuum: remove "
        "files that no manifest names, or the Delta log needs no more, and what killed runs left",
    )
    made.add_argument("--ds", type=day, help="show: the day, YYYY-MM-DD")
    made.add_argument(
        "--keep-hours",
        type=hours,
        default=_WEEK_HOURS,
        help="vacuum: leaves what is younger, and with a Delta table the versions that were "
        f"current since (default {_WEEK_HOURS}); 0 takes files from readers that still use them",
    )
    return made


if __name__ == "__main__":
    main(arguments(), run, plan)
