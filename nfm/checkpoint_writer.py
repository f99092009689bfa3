"""Writes checkpoints beside the steps, so that the workers wait only for a copy in memory."""

import json
import logging
import shutil
import threading
import time
from pathlib import Path

from conf.errors import RunError
from nfm.calibration import ScoreReference
from nfm.checkpoint import (
    DENSE,
    Position,
    Tensors,
    dense_tensors,
    directory_of,
    sync,
    table_file,
    table_tensors,
    write_state,
    write_tensors,
)
from nfm.checkpoint_keeper import prune
from nfm.collectives import Collectives
from nfm.step import TrainStep

_POLL_S = 0.05

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """One worker's part in writing checkpoints, on a thread of its own.

    Each worker writes its files under a hidden name, and a note with their checksums after them;
    rank 0 waits for all notes, writes ``state.json`` and gives the directory its name. So nothing
    is exchanged while the steps exchange theirs. The next one begins when the last is written: no
    more than one copy of the state is in memory.

    Args:
        directory: Of the checkpoints; the same for all workers.
        workers: Who writes together.
        keep: Newest checkpoints kept, beside those of the best epochs.
        timeout_s: How long rank 0 waits for the others' files.
    """

    def __init__(self, directory: Path, workers: Collectives, keep: int, timeout_s: float) -> None:
        self.directory, self.workers = directory, workers
        self.keep, self.timeout_s = keep, timeout_s
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        if workers.rank == 0:  # what a run left half-written that was killed
            for leftover in directory.glob(".step-*"):
                shutil.rmtree(leftover)

    def write(
        self, step: TrainStep, position: Position, scores: ScoreReference | None = None
    ) -> None:
        """Copy the state and write it in the background.

        Args:
            step: The state.
            position: Where the training stands.
            scores: What a validation found, if this checkpoint is that of the best epoch so far.

        Raises:
            RunError: The checkpoint before this one could not be written.
        """
        self.wait()
        files: dict[str, Tensors] = {}
        rank = self.workers.rank
        shards = self.workers.size if step.table.shards > 1 else 1
        if rank == 0:
            files[DENSE] = dense_tensors(step)
        if rank < shards:
            files[table_file(rank, shards)] = table_tensors(step)
        if not files:
            return
        copies = {
            name: {key: tensor.to("cpu", copy=True) for key, tensor in tensors.items()}
            for name, tensors in files.items()
        }
        self._thread = threading.Thread(target=self._write, args=(copies, shards, position, scores))
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last one is written.

        Raises:
            RunError: It could not be.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            raise RunError(
                f"no checkpoint could be written to '{self.directory}': {self._error}; the "
                f"earlier ones are whole. Make room or mend the store, then go on with --resume"
            )

    def _write(
        self,
        files: dict[str, Tensors],
        shards: int,
        position: Position,
        scores: ScoreReference | None,
    ) -> None:
        try:
            final = directory_of(self.directory, position.step)
            staging = final.with_name(f".{final.name}")
            staging.mkdir(parents=True, exist_ok=True)
            sums = {name: write_tensors(staging / name, part) for name, part in files.items()}
            note = staging / _note(self.workers.rank)
            note.with_suffix(".tmp").write_text(json.dumps(sums))
            note.with_suffix(".tmp").rename(note)
            if self.workers.rank == 0:
                notes = [staging / _note(rank) for rank in range(shards)]
                checksums = self._gather(notes)
                write_state(staging, position, checksums, scores)
                shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
                staging.rename(final)
                sync(self.directory)
                prune(self.directory, self.keep)
        except Exception as error:
            self._error = error

    def _gather(self, notes: list[Path]) -> dict[str, str]:
        """The checksums of all workers' files, when they are all there."""
        end = time.monotonic() + self.timeout_s
        while not all(note.exists() for note in notes):
            if time.monotonic() > end:
                missing = next(note for note in notes if not note.exists())
                raise TimeoutError(f"worker {notes.index(missing)} has not written its part")
            time.sleep(_POLL_S)
        sums: dict[str, str] = {}
        for note in notes:
            sums |= json.loads(note.read_text())
            note.unlink()
        return sums


def _note(rank: int) -> str:
    return f"rank-{rank}.json"
