"""From Parquet to trained weights: ours through Petastorm, the peers as their users do it."""

from dataclasses import replace
from pathlib import Path

from benchmarks.ours import write_parquet
from benchmarks.report import Record, Series, compare
from benchmarks.sections.run import COMMAND, Run, ours, peer, rates
from benchmarks.workload import SHAPES, Rows, cached, load
from nfm.lifeline import WORKER_ENVIRONMENT

_SHAPE = "criteo-1m"
_FILE_ROWS, _FILES = 100_000, 10
# A pass of theirs over all files would take minutes.
_PEER_FILES = 2
_BAR = 0.8


def measure(run: Run) -> list[Record]:
    """One size."""
    rows = cached(run.folder / "data", SHAPES[_SHAPE], _FILES * _FILE_ROWS)
    files, few = (
        _write(run.folder / f"parquet-{count}", rows, count) for count in (_FILES, _PEER_FILES)
    )
    theirs = {
        "DeepCTR-Torch 0.3.0": "pandas.read_parquet, fit",
        "FuxiCTR 2.3.10": "its Ray loader, its train_epoch",
    }
    entries = [
        ours("in memory", _SHAPE, rows),
        replace(ours("Petastorm", _SHAPE, files), environment=WORKER_ENVIRONMENT),
        peer("DeepCTR-Torch 0.3.0", "deepctr_torch_nfm", _SHAPE, few),
        peer("FuxiCTR 2.3.10", "fuxictr_nfm", _SHAPE, few),
    ]
    standings = run.turns("end_to_end", entries)
    mine = Series.of(standings.rates["Petastorm"])
    against_memory = compare(
        "end to end.in memory",
        "rows/s",
        mine,
        "our own step in memory",
        rates(standings, "in memory"),
        command=COMMAND,
        at_least=_BAR,
        note=f"{_FILES * _FILE_ROWS:,} rows in {_FILES} files a pass",
    )
    return [
        against_memory,
        *(
            compare(
                f"end to end.{name.partition(' ')[0]}",
                "rows/s",
                mine,
                f"{name}: {way}",
                rates(standings, name),
                command=COMMAND,
                note=standings.failures.get(name, f"theirs: {_PEER_FILES} of the files a pass"),
            )
            for name, way in theirs.items()
        ),
    ]


def _write(folder: Path, rows: Path, files: int) -> Path:
    """The first rows as so many files; those that are there already stay."""
    done = folder / "_SUCCESS"
    if not done.exists():
        every = load(rows)
        first = slice(files * _FILE_ROWS)
        write_parquet(folder, Rows(every.ids_BF[first], every.label_B[first]), files)
        done.touch()
    return folder
