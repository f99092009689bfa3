"""The models of the reproduction as FuxiCTR trains them, in an environment of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conf.schema import Config
from nfm.lifeline import end_with_parent

PYTHON = ".venv-peers/bin/python"
# glibc would give each step's large tensors back to the kernel, a quarter of all time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


def train_beside(config: Config, place: Path, pretrained: Path | None) -> float | None:
    """Train FuxiCTR's model of a config, unless that was done.

    Args:
        config: Of our training.
        place: Directory of its training.
        pretrained: That of the model whose embeddings it begins from.

    Returns:
        The metric of early stopping on the test rows; None if it failed, and then the log says why.
    """
    settings, result = place / "settings.json", place / "result.json"
    text = config.model_dump_json(include={"features", "model", "train"}, indent=1)
    if not (result.exists() and settings.read_text() == text):
        place.mkdir(parents=True, exist_ok=True)
        result.unlink(missing_ok=True)
        settings.write_text(text)
        command = [PYTHON, "-m", "benchmarks.peers.fuxictr_models", str(place)]
        if pretrained:
            command.append(str(pretrained))
        done = subprocess.run(
            command,
            stdout=sys.stdout,
            stderr=sys.stderr,
            env=os.environ | _KEEP_MEMORY,
            preexec_fn=end_with_parent,
        )
        if done.returncode:
            return None
    test: float = json.loads(result.read_text())["test"]
    return test
