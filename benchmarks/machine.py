"""What figures were taken on."""

import os
import platform
import subprocess
from pathlib import Path


def describe() -> str:
    """Processor, cores, memory and commit in a line."""
    cores = len(os.sched_getaffinity(0))
    gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{_processor()}, {cores} cores, {gigabytes:.0f} GB; commit {_commit()}"


def _processor() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
