"""Writes checkpoints beside the steps, so that the workers wait only for a copy in memory."""

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from conf.errors import RunError
from nfm.calibration import ScoreReference
from nfm.checkpoint import (
    DENSE,
    Position,
    Tensors,
    dense_tensors,
    directory_of,
    read_checksums,
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
_SAY_S = 1.0


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
        timeout_s: How long rank 0 waits for the others' files, and counts waiting as life.
        alive: Called about once a second while the steps wait for what is being written.
    """

    def __init__(
        self,
        directory: Path,
        workers: Collectives,
        keep: int,
        timeout_s: float,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory, self.workers = directory, workers
        self.keep, self.timeout_s, self.alive = keep, timeout_s, alive
        self._thread = ThreadPoolExecutor(1)
        self._under_way: list[Future[None]] = []
        if workers.rank == 0:  # what a run left half-written that was killed
            for leftover in directory.glob(".step-*"):
                shutil.rmtree(leftover)

    def write(self, step: TrainStep, position: Position) -> None:
        """Copy the state and write it in the background.

        Args:
            step: The state.
            position: Where the training stands; there is no checkpoint of as many steps.

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
        self._under_way.append(self._thread.submit(self._write, copies, shards, position))

    def record(self, position: Position, scores: ScoreReference | None) -> None:
        """Have the newest checkpoint say what the validation of its epoch came to.

        Args:
            position: Where the training stands, at the same step.
            scores: What was found of the scores, if the epoch is the best so far.
        """
        if self.workers.rank == 0:
            self._under_way.append(self._thread.submit(self._record, position, scores))

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            RunError: It could not be.
        """
        patient_until = time.monotonic() + self.timeout_s
        while wait(self._under_way, _SAY_S).not_done:
            if time.monotonic() < patient_until:
                self.alive()
        try:
            for done in self._under_way:
                done.result()
        except Exception as error:
            raise RunError(
                f"no checkpoint could be written to '{self.directory}': {error}; the "
                f"earlier ones are whole. Make room or mend the store, then go on with --resume"
            ) from None
        self._under_way.clear()

    def _write(self, files: dict[str, Tensors], shards: int, position: Position) -> None:
        final = directory_of(self.directory, position.step)
        staging = final.with_name(f".{final.name}")
        staging.mkdir(parents=True, exist_ok=True)
        sums = {name: write_tensors(staging / name, part) for name, part in files.items()}
        note = staging / _note(self.workers.rank)
        note.with_suffix(".tmp").write_text(json.dumps(sums))
        note.with_suffix(".tmp").rename(note)
        if self.workers.rank == 0:
            notes = [staging / _note(rank) for rank in range(shards)]
            write_state(staging, position, self._gather(notes))
            staging.rename(final)
            sync(self.directory)
            prune(self.directory, self.keep)

    def _record(self, position: Position, scores: ScoreReference | None) -> None:
        final = directory_of(self.directory, position.step)
        write_state(final, position, read_checksums(final), scores)
        prune(self.directory, self.keep)

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
