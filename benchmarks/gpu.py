"""Our step on a GPU beside our compiled loops on all cores of the same machine.

``python -m benchmarks.gpu`` prints the table of docs/gpu.md. Batches are grouped by distinct id
beforehand, as the stream's thread does it in a training; copying them to the GPU counts. Each
figure is the median of rounds, each of as many steps as fit in half a second, at whose end the
GPU has finished; in brackets the smallest and the largest.
"""

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.ours import SHUFFLE_ROWS, batches_in_memory, field_specs, run_config, write_parquet
from benchmarks.task import Task
from benchmarks.workload import SHAPES, Rows, generate
from conf.schema import Config
from nfm.collectives import Alone
from nfm.epoch_plan import plan_epoch
from nfm.step import TrainStep, build_step
from nfm.stream import stream_batches

SIZES = ("frappe", "criteo-1m", "criteo-10m")
BATCHES = (4096, 65_536)
ROUNDS, ROUND_S = 7, 0.5
WAYS = (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bf16"))


def main() -> None:
    """Measure all sizes and print the table."""
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| size | rows of a step | " + " | ".join(map(" ".join, WAYS)) + " |", flush=True)
    print("| --- | ---: |" + " ---: |" * len(WAYS))
    for name in SIZES:
        rows = generate(SHAPES[name], 4 * max(BATCHES))
        for batch in BATCHES:
            task = Task(SHAPES[name], Path("-"), batch, 0, "adagrad", "grouped")
            cells = [_in_memory(task, rows, *way) for way in WAYS]
            print(f"| {name} | {batch:,} | " + " | ".join(cells) + " |", flush=True)
        if name == "criteo-1m":
            task = Task(SHAPES[name], Path("-"), max(BATCHES), 0, "adagrad", "")
            cells = [_from_parquet(task, rows, *way) for way in WAYS]
            print(f"| {name}, from Parquet | {task.batch:,} | " + " | ".join(cells) + " |")


def _step(task: Task, device: str, precision: str) -> tuple[Config, TrainStep]:
    config = run_config(task)
    train = config.train.model_copy(update={"precision": precision})
    config = config.model_copy(update={"train": train})
    place = torch.device(device, 0)
    return config, build_step(config, field_specs(task.shape), Alone(), device=place)


def _in_memory(task: Task, rows: Rows, device: str, precision: str) -> str:
    _, train = _step(task, device, precision)
    source = batches_in_memory(task, rows)

    def step() -> int:
        batch = next(source)
        train(batch, len(batch))
        return len(batch)

    return _rate(step, device)


def _from_parquet(task: Task, rows: Rows, device: str, precision: str) -> str:
    """Passes over files: plan, Petastorm, shuffle, step."""
    _, train = _step(task, device, precision)
    epochs = itertools.count()
    with TemporaryDirectory() as folder:
        write_parquet(Path(folder), rows, files=4)
        paths = [str(path) for path in sorted(Path(folder).glob("*.parquet"))]

        def epoch() -> int:
            plan = plan_epoch(
                [len(rows) // 4] * 4,
                world_size=1,
                batch_size=task.batch,
                seed=0,
                epoch=next(epochs),
                shuffle_rows=SHUFFLE_ROWS,
            )
            for batch in stream_batches(
                plan.blocks[0],
                paths,
                field_specs(task.shape),
                batch_rows=plan.batch_rows[0],
                group_for=1,
            ):
                train(batch, len(batch))
            return len(rows)

        return _rate(epoch, device)


def _rate(step: Callable[[], int], device: str) -> str:
    """Rows per second of what returns how many rows it trained on; and milliseconds a call."""
    for _ in range(3):
        step()
    rates, calls = [], []
    for _ in range(ROUNDS):
        count, rows, start = 0, 0, time.perf_counter()
        while time.perf_counter() - start < ROUND_S:
            rows, count = rows + step(), count + 1
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        rates.append(rows / seconds)
        calls.append(1000 * seconds / count)
    spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
    return f"{median(rates):,.0f} ({spread}); {median(calls):.2f} ms"


if __name__ == "__main__":
    main()
