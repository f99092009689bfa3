"""One Horovod worker of a training: ``python -m nfm.worker <run directory> <descriptor>``.

The launcher has put the resolved ``config.yaml`` and the ``manifest.json`` into the run directory;
rank 0 leaves ``result.json`` there, and a worker that fails says why to the open file of the given
descriptor. A worker always goes on from the newest checkpoint of the run that is whole.
"""

import faulthandler
import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import torch

from conf import storage
from conf.errors import ConfigError, DataError, PipelineError, RunError
from conf.loader import load_config
from conf.manifest import read_manifest
from conf.schema import Config
from nfm.collectives import Collectives
from nfm.cores import use_cores
from nfm.distributed import HorovodWorkers, WorkersLostError, can_reduce_on_gpu
from nfm.run_log import RunLog
from nfm.step import build_step
from nfm.trainer import Trainer
from nfm.validation import NotFiniteError

CONFIG, RESULT, STOP = "config.yaml", "result.json", "stop"

_MESSAGE_CHARACTERS = 4000  # of JSON, 6 bytes each at most

logger = logging.getLogger(__name__)


class StopSignal:
    """Whether this worker was asked to stop: by SIGTERM, or by a file ``stop`` in the run."""

    def __init__(self, run: Path) -> None:
        self._file = run / STOP
        self._asked = False
        signal.signal(signal.SIGTERM, self._terminated)

    def __call__(self) -> bool:
        """Look, at most once in a step or a part of a validation: it takes a few microseconds."""
        return self._asked or self._file.exists()  # no more: the signal may come in between

    def _terminated(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True


def main(run: str, descriptor: int) -> None:
    """Join the other workers and train; the descriptor gets the reason of a failure."""
    faulthandler.register(signal.SIGUSR1)  # a launcher asks so where a worker hangs
    try:
        _train(Path(run), load_config(f"{run}/{CONFIG}"))
    except Exception as raised:
        error = raised
        if isinstance(raised, OSError):
            error = RunError(f"a file could not be read or written: {raised}")
        if isinstance(error, PipelineError):
            logger.error("%s", error)
        else:
            logger.exception("a bug")
        code = getattr(error, "exit_code", 1)
        if not isinstance(error, WorkersLostError):  # those that are lost say why themselves
            # To be stopped is not: unless the launcher was asked to, a machine is taken away.
            final = isinstance(error, ConfigError | DataError | NotFiniteError)
            # A pipe takes 64 kB before somebody reads it, which is when this worker has ended.
            message = (str(error) or repr(error))[:_MESSAGE_CHARACTERS]
            # The code too, for a signal may end this worker before it has ended by itself.
            failure = {"message": message, "mendable": not final, "exit_code": code}
            os.write(descriptor, json.dumps(failure).encode())
        sys.exit(code)


def _train(run: Path, config: Config) -> None:
    stop_asked = StopSignal(run)
    use_cores(config.train.threads_per_worker)
    workers = HorovodWorkers()
    logging.basicConfig(
        level=logging.INFO if workers.rank == 0 else logging.WARNING,
        format=f"%(asctime)s %(levelname)s rank {workers.rank}: %(message)s",
    )
    device = torch.device("cpu")
    if torch.cuda.is_available() and can_reduce_on_gpu():
        device = _own_gpu(workers)
    logger.info("computes on %s", device)
    log = RunLog(run) if workers.rank == 0 else None
    manifest = read_manifest(str(run))
    step = build_step(config, manifest.fields, workers, device=device)
    result = Trainer(config, manifest, workers, run, log, step, stop_asked).fit()
    if log:
        log.close()
        storage.write_text(str(run / RESULT), result.to_json())
    workers.close()


def _own_gpu(workers: Collectives) -> torch.device:
    """The GPU of this worker, which NCCL wants for it alone."""
    if workers.local_size > torch.cuda.device_count():
        raise ConfigError(
            f"{workers.local_size} workers on a host of {torch.cuda.device_count()} GPUs: each "
            f"needs one of its own; set train.num_workers, or train.hosts, to what there is"
        )
    device = torch.device("cuda", workers.local_rank)
    torch.cuda.set_device(device)
    return device


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
