"""TorchRec's EmbeddingBagCollection, as it is meant to run: sharded, with FBGEMM's fused optimiser.

One table per field, sharded over a world of one process on Gloo; its CPU kernel updates the rows
of a batch in the backward pass. Its widths are multiples of 4, so the linear weight takes 4 columns
of a table, of which one is used.
"""

import itertools
from functools import partial

import torch
import torchrec
from torch import distributed, nn
from torch.nn import functional as F
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import (
    EmbeddingShardingPlanner,
    ParameterConstraints,
    Topology,
)
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from benchmarks import settings
from benchmarks.contest import serve
from benchmarks.task import Task, parse
from benchmarks.workload import Shape, batches

_LINEAR_COLUMNS = 4


class NFM(nn.Module):
    """The collection, and the dense part on top of it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tables = [f"t{field}" for field in range(len(shape.cardinalities))]
        self.collection = torchrec.EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                torchrec.EmbeddingBagConfig(
                    name=name,
                    num_embeddings=size,
                    embedding_dim=shape.factors + _LINEAR_COLUMNS,
                    feature_names=[f"f{field}"],
                    init_fn=partial(nn.init.normal_, std=settings.EMBEDDING_STD),
                )
                for field, (name, size) in enumerate(
                    zip(self.tables, shape.cardinalities, strict=True)
                )
            ],
        )
        self.bias = nn.Parameter(torch.zeros(1))
        self.deep = nn.Sequential(
            nn.BatchNorm1d(shape.factors),
            nn.Dropout(settings.DROPOUT),
            nn.Linear(shape.factors, settings.HIDDEN),
            nn.BatchNorm1d(settings.HIDDEN),
            nn.ReLU(),
            nn.Dropout(settings.DROPOUT),
            nn.Linear(settings.HIDDEN, 1, bias=False),
        )

    def forward(self, features: torchrec.KeyedJaggedTensor) -> torch.Tensor:
        """Logits [B]."""
        read = self.collection(features).values()
        v_BFD = read.view(len(read), len(self.shape.cardinalities), -1)
        v_BFK, w_BF = v_BFD[..., : self.shape.factors], v_BFD[..., self.shape.factors]
        pooled_BK = 0.5 * (v_BFK.sum(1).square() - v_BFK.square().sum(1))
        return self.bias + w_BF.sum(1) + self.deep(pooled_BK).squeeze(1)


def build(task: Task) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The sharded model, and the optimiser of its dense part."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    model = NFM(task.shape)
    kind = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}[task.optimizer]
    apply_optimizer_in_backward(kind, model.collection.parameters(), {"lr": settings.LEARNING_RATE})
    # Left to itself the planner gives small tables to a dense kernel without a CPU gradient.
    fused = ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
    sharders = [EmbeddingBagCollectionSharder()]
    plan = EmbeddingShardingPlanner(
        topology=Topology(world_size=1, compute_device="cpu"),
        constraints=dict.fromkeys(model.tables, fused),
    ).plan(model, sharders)
    sharded = DistributedModelParallel(
        model, device=torch.device("cpu"), plan=plan, sharders=sharders
    )
    dense = [weight for name, weight in sharded.named_parameters() if "collection" not in name]
    return sharded, kind(dense, lr=settings.LEARNING_RATE)


def main(task: Task) -> None:
    """Serve training steps."""
    torch.set_num_threads(task.threads)
    rows, (model, optimizer) = task.rows(), build(task)
    label = torch.from_numpy(rows.label_B)
    keys = [f"f{field}" for field in range(len(task.shape.cardinalities))]
    cuts = batches(rows, task.batch)
    one_each = torch.ones(len(keys) * task.batch, dtype=torch.int32)
    values = [torch.from_numpy(rows.ids_BF[cut].T.reshape(-1).astype("int64")) for cut in cuts]
    pairs = itertools.cycle(zip(cuts, values, strict=True))
    model.train()

    def step() -> int:
        cut, ids = next(pairs)
        optimizer.zero_grad()
        logits = model(torchrec.KeyedJaggedTensor(keys, ids, lengths=one_each))
        loss = F.binary_cross_entropy_with_logits(logits, label[cut])
        loss.backward()
        optimizer.step()
        loss.item()
        return task.batch

    serve(step)


if __name__ == "__main__":
    main(parse())
