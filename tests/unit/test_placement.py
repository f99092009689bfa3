"""Where the table is put, against memory counted by hand and control groups written by hand."""

from pathlib import Path

import psutil
import pytest
import torch

from nfm.collectives import Alone
from nfm.placement import choose_placement, host_memory
from tests.data import make_config


class Two(Alone):
    """One of two workers on one host, who bring the same."""

    size = local_size = 2


# Numbers of a row: its weights, and as many sums of squares, or two moments.
@pytest.mark.parametrize(
    ("overrides", "numbers"),
    [
        (("model.name=lr",), 1 + 1),
        (("model.name=fm",), 9 + 9),
        (("model.name=fm", "train.optimizer.name=adam"), 9 + 9 + 9),
    ],
)
def test_auto_shards_what_half_the_memory_does_not_hold(
    tmp_path: Path, overrides: tuple[str, ...], numbers: int
) -> None:
    """Two workers have it, and a checkpoint copies it once."""
    config = make_config(tmp_path, *overrides)
    fits = host_memory() // 2 // (4 * numbers * 3)
    for num_features, expected in ((fits, "replicated"), (fits + 2, "sharded")):
        assert choose_placement(config, num_features, Two(), torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("workers", "batch_rows", "expected"),
    [(2, 4096, "replicated"), (8, 4096, "replicated"), (8, 16 * 4096, "sharded")],
)
def test_auto_shards_where_that_costs_less_traffic(
    tmp_path: Path, workers: int, batch_rows: int, expected: str
) -> None:
    """By hand, of U = batch / N * slots distinct ids of 4 bytes and rows of 4 D bytes.

    Replicated, a worker receives (N - 1) U (4 + 4 D); sharded, (N - 1) / N U (4 + 2 * 4 D), and a
    collective more, which counts as a MiB.
    """
    config = make_config(tmp_path, "model.name=fm", f"train.batch_size={batch_rows}")
    slots = sum(getattr(field, "max_length", 1) for field in config.fields)
    distinct, row = batch_rows // workers * slots, 4 * (config.model.factors + 1)
    replicated = (workers - 1) * distinct * (4 + row)
    sharded = (workers - 1) / workers * distinct * (4 + 2 * row)
    assert (replicated > sharded + 2**20) == (expected == "sharded")
    many = Alone()
    many.size = workers
    assert choose_placement(config, 10**6, many, torch.device("cpu")) == expected


ALL = psutil.virtual_memory().total
SMALL, SMALLER = ALL // 4, ALL // 8


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, ALL),
        ("0::/", {"memory.max": f"{SMALL}"}, SMALL),
        ("0::/", {"memory.max": "max"}, ALL),
        ("0::/", {"memory.max": f"{4 * ALL}"}, ALL),
        ("0::/job/step", {"job/memory.max": f"{SMALLER}", "job/step/memory.max": "max"}, SMALLER),
        ("0::/../other", {"memory.max": f"{SMALL}"}, SMALL),
        ("4:cpu,memory:/a:b", {"memory/a:b/memory.limit_in_bytes": f"{SMALL}"}, SMALL),
        # Of version 1, a container whose group the host has elsewhere, beside an empty version 2.
        ("4:memory:/docker/1\n0::/", {"memory/memory.limit_in_bytes": f"{SMALLER}"}, SMALLER),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, ALL),
        ("3:cpuset:/", {"memory.max": "1"}, ALL),
    ],
)
def test_the_memory_of_a_container_is_its_limit(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    limits = {f"sys/fs/cgroup/{name}": limit for name, limit in files.items()}
    for name, text in ({"proc/self/cgroup": groups} | limits).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n" if text else "")
    assert host_memory(tmp_path) == expected
