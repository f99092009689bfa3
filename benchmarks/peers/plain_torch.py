"""What one writes by hand: nn.Embedding over all fields, dense gradients, torch's optimiser."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import settings
from benchmarks.contest import serve
from benchmarks.task import Task, parse
from benchmarks.workload import batches


class NFM(nn.Module):
    """w0 + sum w_i + MLP(BatchNorm(Bi-Interaction)); all fields in one table by their offsets."""

    def __init__(self, features: int, factors: int) -> None:
        super().__init__()
        hidden = settings.HIDDEN
        self.bias = nn.Parameter(torch.zeros(1))
        self.linear = nn.Embedding(features, 1)
        self.factors = nn.Embedding(features, factors)
        nn.init.zeros_(self.linear.weight)
        nn.init.normal_(self.factors.weight, std=settings.EMBEDDING_STD)
        self.deep = nn.Sequential(
            nn.BatchNorm1d(factors),
            nn.Dropout(settings.DROPOUT),
            nn.Linear(factors, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(settings.DROPOUT),
            nn.Linear(hidden, 1, bias=False),
        )

    def forward(self, ids_BF: torch.Tensor) -> torch.Tensor:
        """Logits [B]."""
        v_BFK = self.factors(ids_BF)
        pooled_BK = 0.5 * (v_BFK.sum(1).square() - v_BFK.square().sum(1))
        return self.bias + self.linear(ids_BF).sum((1, 2)) + self.deep(pooled_BK).squeeze(1)


def main(task: Task) -> None:
    """Serve training steps."""
    torch.set_num_threads(task.threads)
    rows = task.rows()
    ids = torch.from_numpy(rows.ids_BF + task.shape.offsets).long()
    label = torch.from_numpy(rows.label_B)
    model = NFM(task.shape.features, task.shape.factors)
    kind = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}[task.optimizer]
    optimizer = kind(model.parameters(), lr=settings.LEARNING_RATE)
    cuts = itertools.cycle(batches(rows, task.batch))

    def step() -> int:
        cut = next(cuts)
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(ids[cut]), label[cut])
        loss.backward()
        optimizer.step()
        loss.item()
        return task.batch

    serve(step)


if __name__ == "__main__":
    main(parse())
