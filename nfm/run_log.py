"""What rank 0 writes down of a training: metrics per epoch, TensorBoard events, progress."""

import contextlib
import json
import logging
import os
import time
from pathlib import Path

METRICS, PROGRESS = "metrics.jsonl", "progress.json"

_PROGRESS_EVERY_S = 0.2

logger = logging.getLogger(__name__)


class RunLog:
    """The log files of a run.

    Args:
        directory: Gets ``metrics.jsonl`` (one JSON object per epoch), ``tensorboard/`` and
            ``progress.json`` (where the run stands now, for the launcher's progress bar; its age
            tells the launcher whether the workers still move).
    """

    def __init__(self, directory: Path) -> None:
        self._metrics = directory / METRICS
        self._progress = directory / PROGRESS
        # Here, for its import takes half a second of every worker, and one alone writes.
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(directory / "tensorboard"))
        self._next_progress = 0.0
        self._at = (0, 0, 1)

    def start(self, epoch: int) -> None:
        """Forget the epochs that a resumed training takes again, and a line cut short."""
        if self._metrics.exists():
            lines = self._metrics.read_bytes().splitlines()
            kept = [line + b"\n" for line in lines if _is_before(epoch, line)]
            temporary = self._metrics.with_suffix(".tmp")
            temporary.write_bytes(b"".join(kept))
            temporary.replace(self._metrics)

    def alive(self) -> None:
        """Say once more where the run stands: there is no step, for a disk is at work.

        That it cannot be said is no error: what the disk is at work with says better what failed.
        """
        with contextlib.suppress(OSError):
            self.progress(*self._at)

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Say where the run stands, a few times a second at most."""
        self._at = (epoch, step, steps)
        now = time.monotonic()
        if now < self._next_progress:
            return
        self._next_progress = now + _PROGRESS_EVERY_S
        temporary = self._progress.with_suffix(".tmp")
        temporary.write_text(json.dumps({"epoch": epoch, "step": step, "steps": steps}))
        temporary.replace(self._progress)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Add an epoch's metrics to every log."""
        with self._metrics.open("a") as file:
            file.write(json.dumps({"epoch": epoch, **metrics}) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the checkpoint that counts the epoch as done comes after it
        for name, value in metrics.items():
            self._events.add_scalar(name, value, epoch)
        shown = " ".join(
            f"{name} {value:,.0f}" if value >= 100 else f"{name} {value:.4f}"
            for name, value in metrics.items()
            if isinstance(value, float)
        )
        logger.info("epoch %d: %s", epoch, shown)

    def close(self) -> None:
        """Flush the events."""
        self._events.close()


def _is_before(epoch: int, line: bytes) -> bool:
    """Whether a line is of an earlier epoch; a full disk or a power cut may have cut it short."""
    try:
        found: int = json.loads(line)["epoch"]
    except ValueError:
        return False
    return found < epoch
