"""The training loop: epochs of steps, validation, checkpoints, early stopping."""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from conf.errors import RunError
from conf.evaluation import HIGHER_IS_BETTER
from conf.manifest import Manifest
from conf.schema import Config
from nfm.batch import Batch, num_slots
from nfm.bundle import load_bundle
from nfm.calibration import ScoreReference
from nfm.checkpoint import (
    CHECKPOINTS,
    Position,
    dense_tensors,
    directory_of,
    read_position,
    restore,
)
from nfm.checkpoint_keeper import newest_whole
from nfm.checkpoint_writer import CheckpointWriter
from nfm.collectives import Collectives, same_everywhere
from nfm.diagnosis import blame
from nfm.epoch_plan import plan_epoch
from nfm.file_cache import FileCache
from nfm.run_log import RunLog
from nfm.schedule import factor_at
from nfm.step import TrainStep
from nfm.stream import stream_batches
from nfm.validation import NotFiniteError, Validation
from nfm.warm_start import warm_start

_LOOK_EVERY = 20  # steps of a validation: to ask all workers costs as much as one of them

logger = logging.getLogger(__name__)


class StoppedError(RunError):
    """The training was asked to stop, and did so after a checkpoint."""


@dataclass(frozen=True)
class Result:
    """What a training came to.

    Attributes:
        best_epoch: The epoch with the best validation metric.
        best_step: Steps at its end: the name of its checkpoint.
        metrics: Its validation metrics.
        epochs: Epochs run.
        rows: Training rows read, over all epochs and workers.
    """

    best_epoch: int
    best_step: int
    metrics: dict[str, float]
    epochs: int
    rows: int

    def to_json(self) -> str:
        """As one JSON object."""
        return json.dumps(self.__dict__)


class Trainer:
    """Trains a model on a manifest's data, together with the other workers.

    Args:
        config: The run.
        manifest: The data.
        workers: Who trains together.
        run: Directory of the run; a checkpoint below it is where the training goes on.
        log: Rank 0's log; None on the others.
        step: The model and its table, at step 0.
        stop_asked: Tells whether this worker was asked to stop; called at every step, and
            every few of a validation.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        workers: Collectives,
        run: Path,
        log: RunLog | None,
        step: TrainStep,
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config, self.manifest, self.workers = config, manifest, workers
        self.log, self.step, self.stop_asked = log, step, stop_asked
        self.nothing = Batch.empty(num_slots(manifest.fields))
        self.checkpoints = run / CHECKPOINTS
        train = config.train
        self.writer = CheckpointWriter(
            self.checkpoints,
            workers,
            train.checkpoint.keep,
            train.stall_timeout_s,
            self._say_alive,
        )
        self.cache = FileCache(train.cache, manifest) if train.cache else None
        self.validation = Validation(config, manifest, workers, step, self.cache)
        self.position = Position()

    def fit(self) -> Result:
        """Train until the epochs are through or validation stops getting better.

        Raises:
            StoppedError: ``stop_asked`` said so on some worker; there is a checkpoint of the step.
            NotFiniteError: Too many steps, or the validation, came out infinite or NaN.
            DataError: The metric of early stopping does not exist on the validation rows.
            RunError: A checkpoint could not be written, or the workers' weights drifted apart.
        """
        self._restore()
        try:
            while not self._finished():
                self._run_epoch()
        finally:
            self.writer.wait()
        at = self.position
        rows = self.manifest.splits["train"].rows * at.epoch
        return Result(at.best_epoch, at.best_step, at.best_metrics, at.epoch, rows)

    def _finished(self) -> bool:
        at = self.position
        waited = at.epoch - 1 - at.best_epoch if at.best_epoch >= 0 else 0
        patience = self.config.train.early_stopping.patience
        return at.epoch >= self.config.train.epochs or waited >= patience

    def _run_epoch(self) -> None:
        """Train, write a checkpoint, and validate while it is being written.

        The validation changes no weight: all that it adds to the checkpoint is what it found.
        """
        epoch, began, rows = self.position.epoch, time.monotonic(), self._train_epoch()
        rate = rows / (time.monotonic() - began)
        if rows:  # else the epoch's steps were in the checkpoint that the training goes on from
            self._checkpoint()
        loss = self.position.loss / self.manifest.splits["train"].rows
        tally = self.validation.run(self._before_validation_step)
        found, scores = self.validation.metrics(tally), None
        stopping = self.config.train.early_stopping
        sign = 1.0 if HIGHER_IS_BETTER[stopping.metric] else -1.0
        at = replace(self.position, epoch=epoch + 1, done=(), loss=0.0)
        best = at.best_metrics.get(stopping.metric)
        if best is None or sign * found[stopping.metric] > sign * best:
            at = replace(at, best_epoch=epoch, best_step=at.step, best_metrics=found)
            scores = ScoreReference.of(tally, self.validation.objective)
        self.position = at
        if self.log:
            told = {"train_loss": loss} | {f"valid_{name}": x for name, x in found.items()}
            self.log.epoch(epoch, told | ({"rows_per_s": rate} if rows else {}))
        self.writer.record(at, scores)

    def _train_epoch(self) -> int:
        """Take the steps that are left of the epoch; returns the rows of all workers in them."""
        train, rank, at = self.config.train, self.workers.rank, self.position
        split = self.manifest.splits["train"]
        plan = plan_epoch(
            [file.rows for file in split.files],
            world_size=self.workers.size,
            batch_size=train.batch_size,
            seed=train.seed,
            epoch=at.epoch,
            shuffle_rows=train.shuffle_rows,
            done=at.done,
        )
        taken = sum(phase.steps for phase in at.done)
        batches = stream_batches(
            plan.blocks[rank],
            [f"{self.config.features.path}/{file.path}" for file in split.files],
            self.manifest.fields,
            batch_rows=plan.batch_rows[rank],
            weighted=self.manifest.weight is not None,
            group_for=self.step.table.shards,
            cache=self.cache,
        )
        every = train.checkpoint.every_steps
        with contextlib.closing(batches):
            for number in range(plan.steps):
                progress = (at.epoch + (taken + number) / (taken + plan.steps)) / train.epochs
                self._take_step(next(batches, self.nothing), plan.rows_of_step(number), progress)
                self._say_progress(number + 1, plan.steps)
                if every and self.position.step % every == 0 and number + 1 < plan.steps:
                    self._checkpoint()
        return sum(plan.rows)

    def _take_step(self, batch: Batch, rows: tuple[int, ...], progress: float) -> None:
        planned = rows[self.workers.rank]
        assert len(batch) == planned, f"{len(batch)} rows, planned {planned}"
        at, train = self.position, self.config.train
        entropy = (train.seed, at.step, self.workers.rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))  # dropout
        factor = factor_at(train.optimizer.schedule, at.step, progress)
        outcome = self.step(batch, sum(rows), factor=factor, stop=self.stop_asked())
        self.position = at.after_step(
            self.workers.size, outcome.loss if outcome.finite else 0.0, skipped=not outcome.finite
        )
        if not outcome.finite:
            self._skip(batch)
        if outcome.stop:
            self._checkpoint()
            self._stop()

    def _stop(self) -> NoReturn:
        """End as asked, when the checkpoint of this step is written."""
        self.writer.wait()
        # Launchers kill the others when one worker has ended; rank 0 may still be writing.
        self.workers.sum(torch.zeros(1), "stop.written")
        at = self.position
        raise StoppedError(
            f"stopped as asked after step {at.step}, in epoch {at.epoch + 1}, with a checkpoint "
            f"of it"
        )

    def _skip(self, batch: Batch) -> None:
        """Leave out a step that is not finite, or give up."""
        at, allowed = self.position, self.config.train.max_skipped_steps
        cause = blame(batch, self.step.lookup.rows, self.manifest.fields, self.workers)
        what = f"loss or gradient is not finite in step {at.step} (epoch {at.epoch + 1}): {cause}"
        if at.skipped > allowed:
            raise NotFiniteError(
                f"{what}. Mend the value, or lower train.optimizer.learning_rate; "
                f"train.max_skipped_steps ({allowed}) leaves out such steps"
            )
        logger.warning("%s; left out, %d of %d", what, at.skipped, allowed)

    def _before_validation_step(self, number: int, steps: int) -> None:
        if number % _LOOK_EVERY == 0 and self._stop_asked():
            self._stop()
        self._say_progress(number, steps)

    def _stop_asked(self) -> bool:
        """Whether some worker was asked to stop; a validation exchanges nothing that could say."""
        asked = torch.tensor([float(self.stop_asked())])
        return self.workers.sum(asked, "stop.asked").item() > 0

    def _restore(self) -> None:
        """Go on from the newest checkpoint that is whole, rank 0 looks which; or begin."""
        chosen = newest_whole(self.checkpoints, self._say_alive) if self.workers.rank == 0 else -1
        step = int(self.workers.gather(torch.tensor([chosen]), "restore.step")[0])
        if step >= 0:
            path = directory_of(self.checkpoints, step)
            restore(self.step, path)
            self.position = read_position(path)
            logger.info("going on after step %d, epoch %d", step, self.position.epoch + 1)
        elif begin := self.config.train.init_from:
            bundle = load_bundle(begin, check=False)
            features, of = self.config.features.path, self.manifest.num_features
            rows = warm_start(self.step, self.manifest, features, bundle, begin)
            logger.info("%d of %d embeddings from '%s'", rows, of, bundle.model_id)
        if self.log:
            self.log.start(self.position.epoch)
        self._say_progress(0, 1)

    def _checkpoint(self) -> None:
        """Write one, of a state that all workers share: what it holds, nobody doubts again.

        The running statistics of a batch norm differ by worker where each has its own, and are
        averaged. The weights must be the same on all, to the last bit.
        """
        if self.config.model.batch_norm == "local" and self.workers.size > 1:
            self.step.average_statistics()
        tensors = [t for name, t in dense_tensors(self.step).items() if name.startswith("model.")]
        if self.step.table.shards == 1:
            tensors.append(self.step.table.weight_RD)
        if not same_everywhere(self.workers, tensors, "check.replicas"):
            raise RunError(
                "the workers' weights drifted apart; do all hosts run the same torch build on the "
                "same kind of processor?"
            )
        self.writer.write(self.step, self.position)

    def _say_progress(self, step: int, steps: int) -> None:
        if self.log:
            self.log.progress(self.position.epoch, step, steps)

    def _say_alive(self) -> None:
        if self.log:
            self.log.alive()
