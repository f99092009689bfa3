"""One Horovod worker of a training: ``python -m nfm.worker <run directory>``.

The launcher has put the resolved ``config.yaml`` and the ``manifest.json`` into the run directory;
rank 0 leaves ``result.json`` there, and a worker that fails ``failure.json``.
"""

import json
import logging
import os
import sys
from pathlib import Path

import numba
import torch

from conf import storage
from conf.errors import PipelineError
from conf.loader import load_config
from conf.manifest import read_manifest
from conf.schema import Config
from nfm.distributed import HorovodWorkers, WorkersLostError
from nfm.run_log import RunLog
from nfm.trainer import Trainer

CONFIG, CHECKPOINTS, RESULT, FAILURE = "config.yaml", "checkpoints", "result.json", "failure.json"

logger = logging.getLogger(__name__)


def main() -> None:
    """Join the other workers and train."""
    run = Path(sys.argv[1])
    try:
        _train(run, load_config(str(run / CONFIG)))
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        if isinstance(error, PipelineError):
            logger.error("%s", error)
        else:
            logger.exception("a bug")
        if not isinstance(error, WorkersLostError):  # those that are lost say why themselves
            failure = {"exit_code": code, "message": str(error) or repr(error)}
            storage.write_text(str(run / FAILURE), json.dumps(failure))
        sys.exit(code)


def _train(run: Path, config: Config) -> None:
    workers = HorovodWorkers()
    logging.basicConfig(
        level=logging.INFO if workers.rank == 0 else logging.WARNING,
        format=f"%(asctime)s %(levelname)s rank {workers.rank}: %(message)s",
    )
    cores = len(os.sched_getaffinity(0))
    threads = config.train.threads_per_worker or max(1, cores // workers.local_size)
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.get_num_threads()))
    log = RunLog(run) if workers.rank == 0 else None
    manifest = read_manifest(str(run))
    result = Trainer(config, manifest, workers, str(run / CHECKPOINTS), log).fit()
    if log:
        log.close()
        (run / RESULT).write_text(result.to_json())
    workers.close()


if __name__ == "__main__":
    main()
