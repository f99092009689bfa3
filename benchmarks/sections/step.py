"""A step on rows in memory: ours, the peers', and the least that the machine has to do."""

from pathlib import Path

from benchmarks.contest import Entry
from benchmarks.report import Record, Series, compare
from benchmarks.sections.run import COMMAND, Run, ours, peer, rates
from benchmarks.workload import SHAPES

# How many times DeepCTR-Torch's rate ours has to be.
_BARS = {"frappe": 12.0, "criteo-1m": 6.0, "criteo-10m": 25.0}
_MACHINE_BAR = 0.5
_DEEPCTR = "DeepCTR-Torch 0.3.0"


def measure(run: Run) -> list[Record]:
    """All sizes, one after the other."""
    return [record for shape in _BARS for record in _measure(run, shape)]


def _peers(shape: str, data: Path) -> list[Entry]:
    return [
        peer(f"{_DEEPCTR} fit", "deepctr_torch_nfm", shape, data, variant="fit"),
        peer(_DEEPCTR, "deepctr_torch_nfm", shape, data),
        peer(f"{_DEEPCTR} unpenalised", "deepctr_torch_nfm", shape, data, variant="unpenalised"),
        peer("FuxiCTR 2.3.10", "fuxictr_nfm", shape, data),
        peer("torch nn.Embedding, Adam", "plain_torch", shape, data, optimizer="adam"),
        peer("torchrec 1.8.0", "torchrec_nfm", shape, data),
    ]


def _measure(run: Run, shape: str) -> list[Record]:
    data = run.data(shape)
    peers = _peers(shape, data)
    bare = ours("bare", shape, data, module="bare")
    grouped = ours("grouped", shape, data, variant="grouped")
    standings = run.turns(shape, [ours("ours", shape, data), grouped, bare, *peers])
    mine = Series.of(standings.rates["ours"])
    records = [
        compare(
            f"step.{shape}, {entry.name.partition(' ')[0]}",
            "rows/s",
            mine,
            entry.name,
            rates(standings, entry.name),
            command=COMMAND,
            at_least=_BARS[shape] if entry.name in (_DEEPCTR, f"{_DEEPCTR} fit") else None,
            note=standings.failures.get(entry.name, ""),
        )
        for entry in peers
    ]
    machine = compare(
        f"machine.{shape}",
        "rows/s",
        Series.of(standings.rates["grouped"]),
        "bare gathers, scatters and products",
        rates(standings, "bare"),
        command=COMMAND,
        at_least=_MACHINE_BAR,
        note=str(SHAPES[shape]),
    )
    return [*records, machine]
