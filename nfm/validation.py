"""The pass over the validation rows that ends an epoch."""

import contextlib
from collections.abc import Callable

import numpy as np

from conf.errors import DataError, RunError
from conf.manifest import Manifest
from conf.schema import Config
from nfm.batch import Batch, num_slots
from nfm.collectives import Collectives
from nfm.epoch_plan import plan_epoch
from nfm.file_cache import FileCache
from nfm.metrics import metrics
from nfm.objective import Objective
from nfm.step import TrainStep
from nfm.stream import stream_batches
from nfm.tally import Tallier, Tally


class NotFiniteError(RunError):
    """The training diverged: starting it again would end in the same way."""


class Validation:
    """Predicts the validation rows, all workers together, and judges them.

    Args:
        config: Of the run.
        manifest: The data.
        workers: Who to share the rows with.
        step: Predicts.
        cache: Of remote files, if there is one.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        workers: Collectives,
        step: TrainStep,
        cache: FileCache | None,
    ) -> None:
        self.config, self.manifest = config, manifest
        self.workers, self.step, self.cache = workers, step, cache
        self.objective = Objective.of(config, manifest)

    def run(self, before_step: Callable[[int, int], None]) -> Tally:
        """All workers' rows, each counted once; alike on every worker.

        Args:
            before_step: Called on every worker with the number of a step, and of all steps.

        Raises:
            NotFiniteError: A prediction is infinite or NaN.
        """
        files, rank = self.manifest.splits["valid"].files, self.workers.rank
        plan = plan_epoch(
            [file.rows for file in files],
            world_size=self.workers.size,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            epoch=0,
            shuffle_rows=0,
        )
        batches = stream_batches(
            plan.blocks[rank],
            [f"{self.config.features.path}/{file.path}" for file in files],
            self.manifest.fields,
            batch_rows=plan.batch_rows[rank],
            group_for=self.step.table.shards if self.step.table.shards > 1 else None,
            cache=self.cache,
        )
        group_by = self.config.evaluate.group_by
        tallier = Tallier(self.manifest.fields, [group_by] if group_by else [])
        nothing = Batch.empty(num_slots(self.manifest.fields))
        with contextlib.closing(batches):
            for number in range(plan.steps):
                before_step(number, plan.steps)
                batch = next(batches, nothing)
                tallier.add(self.step.predict(batch), batch)
        tally = tallier.tally().gathered(self.workers)
        if not np.isfinite(tally.output_N).all():
            raise NotFiniteError(
                "the validation's predictions came out infinite or NaN: lower "
                "train.optimizer.learning_rate"
            )
        return tally

    def metrics(self, tally: Tally) -> dict[str, float]:
        """What the rows come to; one of them decides when to stop.

        Raises:
            DataError: That one does not exist on these rows.
        """
        group_by = self.config.evaluate.group_by
        found = metrics(tally, self.objective, self.manifest.field(group_by) if group_by else None)
        decides = self.config.train.early_stopping.metric
        if decides not in found:
            raise DataError(
                f"there is no {decides} on the validation rows: it compares rows of both classes "
                f"(gauc: of one key), and there are none; choose another "
                f"train.early_stopping.metric, or another split"
            )
        return found
