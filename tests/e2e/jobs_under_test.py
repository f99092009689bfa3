"""Calling jobs as their users do: in this process with the shared session, or as a process."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from jobs.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    code: int
    out: str
    err: str


class JobCaller:
    """Runs a job's ``main`` in this process, so that no second JVM has to start."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path
    ) -> None:
        self._monkeypatch, self._capsys, self._config = monkeypatch, capsys, config

    def __call__(self, job: ModuleType, *arguments: str) -> Outcome:
        argv = [job.__name__, "--config", str(self._config), *arguments]
        self._monkeypatch.setattr(sys, "argv", argv)
        self._capsys.readouterr()
        try:
            main(job.arguments(), job.run, job.plan)
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        return Outcome(code, out, err)


def start_job(
    name: str, *arguments: str, stderr: int = subprocess.STDOUT
) -> "subprocess.Popen[str]":
    """Start a job as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{name}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
