"""Run by horovodrun in the tests: a whole training; rank r writes ``weights-<r>.safetensors``.

Usage: python -m tests.distributed.fit DIRECTORY (which holds the configuration and the features).
"""

import sys

from conf.loader import load_config
from conf.manifest import read_manifest
from nfm.checkpoint import tensors_of, write_tensors
from nfm.distributed import HorovodWorkers
from nfm.trainer import Trainer


def main() -> None:
    directory = sys.argv[1]
    config = load_config(f"{directory}/config.yaml")
    workers = HorovodWorkers()
    manifest = read_manifest(config.features.path)
    trainer = Trainer(config, manifest, workers, f"{directory}/checkpoints", log=None)
    trainer.fit()
    tensors = tensors_of(trainer.step)
    write_tensors(f"{directory}/weights-{workers.rank}.safetensors", tensors)
    workers.close()


if __name__ == "__main__":
    main()
