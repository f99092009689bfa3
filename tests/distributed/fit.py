"""Run by horovodrun in the tests: a whole training in float64, out of Parquet.

Usage: python -m tests.distributed.fit DIRECTORY (which holds ``config.yaml``) [STOP_AFTER].
Leaves ``checkpoints/`` and ``result.json``; STOP_AFTER steps, rank 0 asks all to stop.
"""

import sys
from pathlib import Path

import torch

from conf.loader import load_config
from conf.manifest import read_manifest
from nfm.collectives import Collectives
from nfm.distributed import HorovodWorkers
from nfm.step import build_step
from nfm.trainer import StoppedError, Trainer


def fit(directory: Path, workers: Collectives, stop_after: int | None) -> None:
    config = load_config(f"{directory}/config.yaml")
    manifest = read_manifest(config.features.path)
    step = build_step(config, manifest.num_features, workers, dtype=torch.float64)
    trainer = Trainer(config, manifest, workers, directory, None, step, lambda: asked())

    def asked() -> bool:
        return workers.rank == 0 and trainer.position.step + 1 == stop_after

    result = trainer.fit()
    if workers.rank == 0:
        (directory / "result.json").write_text(result.to_json())


def main() -> None:
    workers = HorovodWorkers()
    stop_after = int(sys.argv[2]) if len(sys.argv) > 2 else None
    try:
        fit(Path(sys.argv[1]), workers, stop_after)
    except StoppedError:
        assert stop_after is not None
    workers.close()


if __name__ == "__main__":
    main()
