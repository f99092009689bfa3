"""The distributed training step: N workers compute what one would on all their rows.

The objective of a step is the mean over all workers' rows of
``weight * loss(y, y_hat) + sum over the row's features of (l2/2 * v^2 + l1 * |v|)``,
and the penalty of the dense weights. The mean divides by the number of rows, not by the sum of
their weights: a row of weight 2 pulls as two rows do, whatever others weigh, and one of weight 0
leaves only its penalties and its part in batch norm's statistics. A worker differentiates the sum
over its own rows divided by the number of all rows, so that the gradients of the workers simply add
up.

Shapes: B = rows of this worker, S = slots, U = distinct ids, D = K + 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from conf.manifest import FieldSpec
from conf.schema import Config
from conf.training import PenaltyConfig, TrainConfig
from nfm.batch import Batch, field_of_slots
from nfm.collectives import Collectives
from nfm.dense import DenseParameters
from nfm.lookup import Lookup, Tensors, Upstream
from nfm.models import build_model
from nfm.objective import Objective
from nfm.row_optimizers import squared_norm
from nfm.table import EmbeddingTable, new_table
from nfm.table_model import TableModel


@dataclass(frozen=True)
class Outcome:
    """What all workers know alike after a step.

    Attributes:
        loss: Summed loss of all workers' rows, by their weights, penalties apart.
        finite: Whether loss and gradients were; if not, nothing was changed.
        stop: Whether some worker was asked to stop.
    """

    loss: float
    finite: bool
    stop: bool


class TrainStep:
    """A model, its table, and what one step does to them.

    Args:
        model: The dense part; the same on every worker.
        table: The embeddings.
        fields: What the rows consist of.
        workers: Who takes the step together.
        objective: The loss of a row.
        config: Optimiser and penalties.
        compiled: Whether compiled loops work on the table (main memory only) or plain torch.
    """

    def __init__(
        self,
        model: TableModel,
        table: EmbeddingTable,
        fields: Sequence[FieldSpec],
        workers: Collectives,
        objective: Objective,
        config: TrainConfig,
        *,
        compiled: bool,
    ) -> None:
        self.model, self.table, self.workers = model, table, workers
        self.objective = objective
        self.l1_D = _per_column(config.l1, table.weight_RD)
        self.l2_D = _per_column(config.l2, table.weight_RD)
        self.device = table.weight_RD.device
        lookup = model.reads.compiled if compiled else model.reads.plain
        self.lookup: Lookup = lookup(field_of_slots(fields).to(self.device))
        self.autocast = self.device.type == "cuda" and config.precision == "bf16"
        self.dense = DenseParameters(model, config, told=3)
        self.clip_norm = config.optimizer.clip_norm
        # The rest is for the sum over some hundred workers.
        self.safe_reach = math.sqrt(torch.finfo(table.weight_RD.dtype).max) / 1024
        self.buffers = list(model.buffers())
        self.buffers_before = [buffer.clone() for buffer in self.buffers]
        self.rows_learnt = 0  # of this worker, since all had the same running statistics

    def __call__(
        self, batch: Batch, all_rows: int, *, factor: float = 1.0, stop: bool = False
    ) -> Outcome:
        """Take one step with the other workers.

        Args:
            batch: This worker's rows; may have none.
            all_rows: Rows of all workers in this step; at least one.
            factor: What the learning rates are multiplied by.
            stop: Whether this worker was asked to stop.
        """
        self._switch(training=True)
        batch = batch.owned_by(self.table.shards).to(self.device)
        rows = self.table.read(batch, learning=True)
        read = self.lookup.forward(rows, batch)
        _copy(self.buffers, self.buffers_before)
        logits_B = self._logits(read)
        loss_B = self.objective.row_losses(logits_B, batch.label_B.to(logits_B.dtype))
        if batch.weight_B is not None:
            loss_B = loss_B * batch.weight_B.to(loss_B.dtype)
        self.dense.zero_gradients()
        loss_B.backward(torch.full_like(loss_B, 1 / all_rows))
        # A model may have no use for a part of it.
        grads = tuple(torch.zeros_like(p) if p.grad is None else p.grad for p in read)
        loss = loss_B.detach().sum()
        extreme = ~(_reach(batch.x_BS.flatten(), grads) < self.safe_reach)  # also where it is NaN
        told = loss, extreme.to(loss.dtype), loss.new_tensor(float(stop))
        summed_later = self.dense.sum_gradients(self.workers, told)
        penalties = self.l1_D / all_rows, self.l2_D / all_rows
        self.table.send(self.lookup, Upstream(grads, *penalties))
        summed = summed_later()
        all_loss, extremes, stops = summed[-3:].tolist()
        finite = self._learn(summed, factor, measured=extremes > 0 or self.clip_norm is not None)
        if not finite:
            _copy(self.buffers_before, self.buffers)
        elif len(batch) > 1:  # one row has no variance to learn from
            self.rows_learnt += len(batch)
        return Outcome(all_loss, finite, stop=stops > 0)

    def _learn(self, summed: torch.Tensor, factor: float, *, measured: bool) -> bool:
        """Step all parameters, unless something is not finite; returns whether it was.

        Args:
            summed: What the workers told each other.
            factor: What the learning rates are multiplied by.
            measured: Whether the norm of the gradient has to be known first.
        """
        grad_1N, scale = self.dense.gradient(summed), 1.0
        square = self.table.receive(measured=measured)
        if measured:
            square += squared_norm(grad_1N)
        finite = math.isfinite(summed.sum().item()) and math.isfinite(square)
        if finite:
            if self.clip_norm is not None:  # as torch.nn.utils.clip_grad_norm_
                scale = min(1.0, self.clip_norm / (math.sqrt(square) + 1e-6))
            self.table.optimizer.factor = self.dense.optimizer.factor = factor
            self.table.learn(scale)
            self.dense.learn(grad_1N if scale == 1 else scale * grad_1N)
        return finite

    @torch.no_grad()
    def predict(self, batch: Batch) -> torch.Tensor:
        """Logits (or predicted values) of this worker's rows [B]; all workers call it."""
        self._switch(training=False)
        batch = batch.owned_by(self.table.shards).to(self.device)
        rows = self.table.read(batch, learning=False)
        return self._logits(self.lookup.forward(rows, batch)).cpu()

    def average_statistics(self) -> None:
        """Make batch norm's running statistics the same again where each worker learns its own.

        Those of a worker count by the rows that it has learnt them from since they were the same:
        one whose files ran out, or who never had rows, has nothing to say. All workers call it.
        """
        sizes = [buffer.numel() for buffer in self.buffers]
        mine = torch.cat([*map(torch.flatten, self.buffers), torch.ones(1, device=self.device)])
        summed = self.workers.sum(self.rows_learnt * mine.double(), "statistics")
        if summed[-1] > 0:
            _copy(list((summed[:-1] / summed[-1]).split(sizes)), self.buffers)
        self.rows_learnt = 0

    def _logits(self, read: Tensors) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.autocast):
            logits_B: torch.Tensor = self.model(*read)
        return logits_B.to(self.table.weight_RD.dtype)

    def _switch(self, *, training: bool) -> None:
        """Put the model into a mode; asking all its modules every time would take longer."""
        if self.model.training != training:
            self.model.train(training)


def build_step(
    config: Config,
    fields: Sequence[FieldSpec],
    workers: Collectives,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    compiled: bool = True,
) -> TrainStep:
    """The model, table and optimisers at step 0: the same on every worker, by the seed.

    Args:
        config: The run.
        fields: What the rows consist of.
        workers: Who trains together.
        dtype: Of all weights; float64 proves equalities.
        device: Where they are; None is main memory.
        compiled: Whether the loops are compiled (main memory only) or plain torch.
    """
    device = device or torch.device("cpu")
    compiled = compiled and device.type == "cpu"
    torch.manual_seed(config.train.seed)
    model = build_model(config.model, fields, workers, compiled=compiled).to(device, dtype)
    num_features = sum(field.cardinality for field in fields)
    table = new_table(config, num_features, workers, dtype, device)
    objective = Objective(config.task, config.loss)
    return TrainStep(model, table, fields, workers, objective, config.train, compiled=compiled)


def _reach(x_N: torch.Tensor, grads: Tensors) -> torch.Tensor:
    """How far a worker's gradient of the table can reach; looking at all of it would take a sweep.

    A row's gradient sums x g (s - x v), or x g, over its occurrences. The squares of s and of x v
    are part of what the model read, so neither is above the root of the largest number where that
    was finite. Sums of |x g|, and of x^2 |g|, which the compiled loops take first, are no more than
    this: (N + sum of x^2) |g|. So a reach well below the root of the largest number leaves no
    gradient infinite or NaN.

    Args:
        x_N: Values of the features in all slots of the batch.
        grads: The gradient at what the model read.
    """
    squares = [flat.dot(flat) for flat in map(torch.flatten, grads)]
    return (len(x_N) + x_N.dot(x_N)) * torch.stack(squares).sum().sqrt()


def _copy(tensors: list[torch.Tensor], into: list[torch.Tensor]) -> None:
    for tensor, place in zip(tensors, into, strict=True):
        place.copy_(tensor)


def _per_column(strength: PenaltyConfig, like_RD: torch.Tensor) -> torch.Tensor:
    """The strength of each column of the table: K times the factors', then the linear weight's."""
    columns = like_RD.new_full((like_RD.shape[1],), strength.embedding)
    columns[-1] = strength.linear
    return columns
