"""Does NFM beat FM, FNN, Wide&Deep and DeepCross here? A table -> its models, tuned, side by side.

For each model of jobs/comparison.yaml a study (``jobs.tune``) finds hyperparameters on the
validation rows, three seeds train with the best ones, and the test rows judge them. As many
trainings run at a time as there are cores, each on one. What was trained is not trained again: stop
it at any time, and run it again.
"""

import argparse
import time

from conf import storage
from conf.manifest import FILE_NAME
from conf.schema import Config
from jobs import build_features, train
from jobs.cli import Stage, main, parser
from jobs.comparison import (
    MODELS,
    OPTIONS,
    SEEDS,
    check_studies,
    compare,
    root_of,
    study_config,
    tried_of,
)
from jobs.results import RIVALS, best_nfm, by_table, spread, tables

PAGE = "comparison.md"
EXAMPLES = """\
  python -m jobs.compare --config X.yaml --dry-run
  python -m jobs.compare --config X.yaml --set tune.trials=20"""


def run(config: Config, options: argparse.Namespace) -> Stage:
    """Build the features unless they are there, compare, and write the page."""
    start, page = time.monotonic(), str(root_of(config) / PAGE)
    (summaries,) = by_table(compare([config])).values()
    storage.write_text(page, "\n\n".join(tables(summaries)) + "\n")
    nfm = best_nfm(summaries)
    facts = {f"{name} test {s.first.metric}": spread(s.figures) for name, s in summaries.items()}
    for rival in RIVALS:
        verdict = nfm.beside(summaries[rival].figures)[-1].strip("*")
        facts[f"{nfm.first.model} beside {rival}"] = verdict
    rows = train.manifest_of(config).splits["train"].rows
    return Stage("compare", rows, None, rows, time.monotonic() - start, page, facts)


def plan(config: Config, options: argparse.Namespace) -> list[str]:
    """What would be tried for each model."""
    studies = {name: study_config(config, name) for name in MODELS}
    lines = []
    if storage.exists(f"{config.features.path}/{FILE_NAME}"):
        check_studies(studies.values())
    else:
        lines = [*build_features.plan(config, OPTIONS), "then"]
    for name, study in studies.items():
        lines.append(f"  {name}: {', '.join(tried_of(study, name))}")
    assert config.tune
    lines.append(
        f"compare: {config.tune.trials} trials each, then {len(SEEDS)} seeds, judged by "
        f"{config.train.early_stopping.metric} -> {root_of(config) / PAGE}"
    )
    return lines


def arguments() -> argparse.ArgumentParser:
    """The job's command line."""
    return parser(__doc__, EXAMPLES)


if __name__ == "__main__":
    main(arguments(), run, plan)
