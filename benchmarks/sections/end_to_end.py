"""From Parquet to trained weights: ours through Petastorm, the peers as their users do it."""

from pathlib import Path

from benchmarks.ours import write_parquet
from benchmarks.report import Record, Series, compare
from benchmarks.sections.run import COMMAND, Run, ours, peer, rates
from benchmarks.workload import SHAPES, generate

_SHAPE = "criteo-1m"
_FILE_ROWS, _FILES = 100_000, 10
# A pass of theirs over all files would take minutes.
_PEER_FILES = 2
_BAR = 0.8


def measure(run: Run) -> list[Record]:
    """One size."""
    files, few = (
        _write(run.folder / "parquet", _FILES),
        _write(run.folder / "parquet-few", _PEER_FILES),
    )
    theirs = {
        "DeepCTR-Torch 0.3.0": "pandas.read_parquet, fit",
        "FuxiCTR 2.3.10": "its Ray loader, its train_epoch",
    }
    entries = [
        ours("in memory", _SHAPE, run.data(_SHAPE)),
        ours("Petastorm", _SHAPE, files),
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


def _write(folder: Path, files: int) -> Path:
    done = folder / "_SUCCESS"
    if not done.exists():
        write_parquet(folder, generate(SHAPES[_SHAPE], files * _FILE_ROWS, seed=1), files)
        done.touch()
    return folder
