"""Compiled loops out of a zip, which Spark puts into a new directory for every application."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPILE = """
import numpy as np
from nfm import kernels
kernels.group_ids(np.zeros(3, np.int32), 1)
print(kernels.__file__, sum(kernels.group_ids.stats.cache_hits.values()))
"""


def test_another_application_does_not_compile_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for number, hits in ((1, 0), (2, 1)):
        application = tmp_path / f"application-{number}"
        application.mkdir()
        with zipfile.ZipFile(application / "code.zip", "w") as archive:
            for package in ("conf", "nfm"):
                for path in (ROOT / package).rglob("*.py"):
                    archive.write(path, path.relative_to(ROOT))
        environment = {"PYTHONPATH": str(application / "code.zip"), "XDG_CACHE_HOME": str(cache)}
        done = subprocess.run(
            [sys.executable, "-c", COMPILE],
            cwd=application,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == [f"{application}/code.zip/nfm/kernels.py", str(hits)], done
        shutil.rmtree(application)
    assert [path.name[:4] for path in (cache / "numba").iterdir()] == ["nfm-"]
