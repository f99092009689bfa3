"""The training loop: epochs of steps, validation, checkpoints, early stopping."""

import itertools
import json
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from conf.errors import RunError
from conf.manifest import Manifest, SplitSpec
from conf.schema import Config
from nfm.batch import Batch, num_slots
from nfm.checkpoint import Position, tensors_of, weights_of, write_checkpoint
from nfm.collectives import Collectives
from nfm.epoch_plan import plan_epoch
from nfm.lookup import read_rows
from nfm.metrics import HIGHER_IS_BETTER, METRICS
from nfm.models import build_model
from nfm.run_log import RunLog
from nfm.step import TrainStep
from nfm.stream import stream_batches
from nfm.table import EmbeddingTable


@dataclass(frozen=True)
class Result:
    """What a training came to.

    Attributes:
        best_epoch: The epoch with the best validation metric.
        metrics: Its validation metrics.
        epochs: Epochs run.
        rows: Training rows read, over all epochs and workers.
    """

    best_epoch: int
    metrics: dict[str, float]
    epochs: int
    rows: int

    def to_json(self) -> str:
        """As one JSON object."""
        return json.dumps(self.__dict__)


def build_step(
    config: Config,
    num_features: int,
    workers: Collectives,
    *,
    dtype: torch.dtype = torch.float32,
    compiled: bool = True,
) -> TrainStep:
    """The model, table and optimisers at step 0: the same on every worker, by the seed.

    Args:
        config: The run.
        num_features: Size of the one-hot space.
        workers: Who trains together.
        dtype: Of all weights; float64 proves equalities.
        compiled: Whether the table's loops are compiled (CPU) or plain torch.
    """
    torch.manual_seed(config.train.seed)
    model = build_model(config.model, workers).to(dtype)
    table = EmbeddingTable(
        num_features,
        config.model.embedding_dim,
        std=config.model.embedding_std,
        optimizer=config.train.optimizer,
        generator=torch.Generator().manual_seed(config.train.seed),
        dtype=dtype,
        compiled=compiled,
    )
    return TrainStep(model, table, workers, config.task, config.train)


class Trainer:
    """Trains a model on a manifest's data, together with the other workers.

    Args:
        config: The run.
        manifest: The data.
        workers: Who trains together.
        checkpoints: Directory of the checkpoints.
        log: Rank 0's log; None on the others.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        workers: Collectives,
        checkpoints: str,
        log: RunLog | None,
    ) -> None:
        self.config, self.manifest, self.workers = config, manifest, workers
        self.checkpoints, self.log = checkpoints, log
        self.step = build_step(config, manifest.num_features, workers)

    def fit(self) -> Result:
        """Train until the epochs are through or validation stops getting better."""
        stopping = self.config.train.early_stopping
        sign = 1.0 if HIGHER_IS_BETTER[stopping.metric] else -1.0
        best, best_metrics, best_value, epoch = 0, dict[str, float](), -math.inf, 0
        for epoch in range(self.config.train.epochs):
            began = time.monotonic()
            loss = self._train_epoch(epoch)
            trained_s = time.monotonic() - began
            metrics = self._validate()
            value = sign * metrics[stopping.metric]
            if epoch == 0 or value > best_value:
                best, best_metrics, best_value = epoch, metrics, value
            if self.log:
                position = Position(epoch, best, metrics)
                write_checkpoint(self.checkpoints, tensors_of(self.step), position)
                rate = self.manifest.splits["train"].rows / trained_s
                valid = {f"valid_{name}": value for name, value in metrics.items()}
                self.log.epoch(epoch, {"train_loss": loss, **valid, "rows_per_s": rate})
            if epoch - best >= stopping.patience:
                break
        self._check_replicas()
        rows = self.manifest.splits["train"].rows * (epoch + 1)
        return Result(best, best_metrics, epoch + 1, rows)

    def _train_epoch(self, epoch: int) -> float:
        """One pass over the training rows; returns the mean loss of a row, penalties apart."""
        train, rank = self.config.train, self.workers.rank
        split = self.manifest.splits["train"]
        plan = plan_epoch(
            [file.rows for file in split.files],
            world_size=self.workers.size,
            batch_size=train.batch_size,
            seed=train.seed,
            epoch=epoch,
        )
        entropy = np.random.SeedSequence((train.seed, epoch, rank))
        torch.manual_seed(int(entropy.generate_state(1)[0]))  # dropout
        batches = stream_batches(
            self._paths(split, plan.files[rank]),
            self.manifest.fields,
            batch_rows=plan.batch_rows[rank],
            shuffle_rows=train.shuffle_rows,
            rng=np.random.default_rng(entropy),
        )
        nothing = Batch.empty(num_slots(self.manifest.fields))
        padded = itertools.chain(batches, itertools.repeat(nothing))
        total = 0.0
        for number, batch in zip(range(plan.steps), padded, strict=False):
            rows = plan.rows_of_step(number)
            assert len(batch) == rows[rank], f"{len(batch)} rows, planned {rows[rank]}"
            total += self.step(batch, sum(rows))
            if self.log:
                self.log.progress(epoch, number + 1, plan.steps)
        summed = self.workers.sum(torch.tensor([total], dtype=torch.float64), "epoch.loss")
        loss = float(summed) / split.rows
        if not math.isfinite(loss):
            raise RunError(
                f"the training loss became {loss} in epoch {epoch}: lower "
                f"train.optimizer.learning_rate, or look for extreme values in numeric fields"
            )
        return loss

    def _validate(self) -> dict[str, float]:
        """Metrics over all workers' validation rows, computed alike on every worker."""
        split = self.manifest.splits["valid"]
        plan = plan_epoch(
            [file.rows for file in split.files],
            world_size=self.workers.size,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            epoch=0,
        )
        rank = self.workers.rank
        batches = stream_batches(
            self._paths(split, plan.files[rank]),
            self.manifest.fields,
            batch_rows=plan.batch_rows[rank],
        )
        logits, labels = [torch.zeros(0)], [torch.zeros(0)]
        self.step.model.eval()
        with torch.no_grad():
            for batch in batches:
                read = read_rows(self.step.table.weight_VD, batch.ids_BS, batch.x_BS)
                logits.append(self.step.model(*read))
                labels.append(batch.label_B)
        gathered = [
            self.workers.gather(torch.cat(part), f"valid.{name}").double().numpy()
            for name, part in (("logits", logits), ("labels", labels))
        ]
        metrics = METRICS[self.config.task](*gathered)
        if not all(map(math.isfinite, metrics.values())):
            raise RunError(f"validation came out as {metrics}: lower train.optimizer.learning_rate")
        return metrics

    def _check_replicas(self) -> None:
        """Every step must have left the same weights on every worker, to the last bit."""
        tensors = weights_of(tensors_of(self.step)).values()
        digest = torch.stack([tensor.double().sum() for tensor in tensors]).unsqueeze(0)
        digests = self.workers.gather(digest, "check.replicas")
        if not torch.equal(digests, digests[:1].expand_as(digests)):
            raise RunError(
                "the workers' weights drifted apart; do all hosts run the same torch build on the "
                "same kind of processor?"
            )

    def _paths(self, split: SplitSpec, indices: tuple[int, ...]) -> list[str]:
        return [f"{self.config.features.path}/{split.files[index].path}" for index in indices]
