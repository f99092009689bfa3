"""What a launcher sees of a gang at work: its heartbeat, and how far it is."""

import contextlib
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from nfm.run_log import PROGRESS

_DELAY_S = 0.25


class Progress:
    """Reads ``progress.json``: that it changes is the heartbeat; on a terminal it becomes a bar.

    Args:
        run: Directory of the run.
        epochs: Most epochs of the training.
    """

    def __init__(self, run: Path, epochs: int) -> None:
        self._file, self._epochs = run / PROGRESS, epochs
        self._stamp: tuple[int, int] | None = None
        self._seen_at = time.monotonic()
        self._last: dict[str, int] = {}
        self._bar = tqdm(unit="step", disable=not sys.stderr.isatty(), leave=False, delay=_DELAY_S)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life, or since the start; by this machine's clock."""
        return time.monotonic() - self._seen_at

    @property
    def position(self) -> str:
        """Where the workers were when last heard of."""
        if not self._last:
            return "before its first step"
        step, steps, epoch = (self._last[key] for key in ("step", "steps", "epoch"))
        return f"after step {step} of {steps} in epoch {epoch + 1}"

    def look(self) -> None:
        """See whether the workers are further, and draw it."""
        with contextlib.suppress(OSError):  # not there yet, or a network file system's moment
            stat = self._file.stat()
            if (stat.st_ino, stat.st_mtime_ns) != self._stamp:
                now = json.loads(self._file.read_text())
                self._stamp, self._seen_at = (stat.st_ino, stat.st_mtime_ns), time.monotonic()
                self._draw(now)

    def _draw(self, now: dict[str, int]) -> None:
        if now["epoch"] != self._last.get("epoch"):  # the rate is that of the epoch alone
            self._bar.reset(total=now["steps"])
            self._bar.set_description(f"epoch {now['epoch'] + 1}/{self._epochs}", refresh=False)
        self._last = now
        self._bar.update(now["step"] - self._bar.n)
