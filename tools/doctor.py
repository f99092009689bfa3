"""Say what this machine and ``.venv`` offer, what is wrong, and how to mend it: ``make doctor``."""

import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
COUNT_WITH_SPARK = """
import os, sys
from pyspark.sql import SparkSession
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
def through_torch(batches):
    import torch
    return batches
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
rows = spark.range(1000).mapInArrow(through_torch, "id long")  # as scoring does
assert rows.count() == 1000
print("counted 1000 rows with Spark", spark.version)
"""
SETUP_AGAIN = "rm -rf .venv && make setup"


def run(*command: str) -> str:
    """Return what the command prints; raise with its last words if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180
    )
    if done.returncode:
        last_words = done.stdout.strip().splitlines()[-1:] or ["no output"]
        raise RuntimeError(f"{command[0]} failed: {last_words[0]}")
    return done.stdout.strip()


def python() -> str:
    """Check that this is the 3.11 that petastorm and the lock are made for."""
    if sys.version_info[:2] != (3, 11):
        raise RuntimeError(f"{platform.python_version()}, not 3.11")
    return f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"


def java() -> str:
    """Check the Java that Spark would take: of JAVA_HOME, else the first on PATH."""
    home = os.environ.get("JAVA_HOME")
    version = run(f"{home}/bin/java" if home else "java", "-version").splitlines()[0]
    if not re.search(r'"(17|21)[."]', version):
        raise RuntimeError(f"{version}; Spark 4 runs on 17 or 21")
    return version


def compiler() -> str:
    """Name the compiler that would build Horovod."""
    return run(os.environ.get("CXX", "c++"), "--version").splitlines()[0]


def lock() -> str:
    """Check that .venv holds what requirements.lock pins."""
    pins = re.findall(r"^([\w-]+)==(\S+)", LOCK.read_text(), re.MULTILINE)
    installed = {
        d.name.lower(): d.version.partition("+")[0] for d in importlib.metadata.distributions()
    }
    wrong = [f"{name} {pin}" for name, pin in pins if installed.get(name.lower()) != pin]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {len(pins)} pins not met: {', '.join(wrong[:5])}")
    return f"all {len(pins)} packages as pinned"


def package(name: str) -> Callable[[], str]:
    """Make the check that imports a package and gives its version."""
    return lambda: str(importlib.import_module(name).__version__)


def torch() -> str:
    """Import torch and say what it can compute on."""
    torch = importlib.import_module("torch")
    if torch.version.cuda is None:
        return f"{torch.__version__}, for CPU"
    return f"{torch.__version__}, for CUDA {torch.version.cuda}: {torch.cuda.device_count()} GPUs"


def horovod() -> str:
    """Check that Horovod loads beside this torch and can talk through Gloo."""
    hvd = importlib.import_module("horovod.torch")
    if not hvd.gloo_built():
        raise RuntimeError("built without Gloo")
    nccl = "with" if hvd.nccl_built() else "without"
    return f"{importlib.metadata.version('horovod')}, with Gloo, {nccl} NCCL"


def spark() -> str:
    """Start Spark, count a range, stop."""
    home = os.environ.get("SPARK_HOME")
    counted = run(sys.executable, "-c", COUNT_WITH_SPARK).splitlines()[-1]
    return f"{counted} of SPARK_HOME={home}" if home else counted


# (what, how to find out, how to mend it)
CHECKS: list[tuple[str, Callable[[], str], str]] = [
    ("Python", python, f"install Python 3.11, then: {SETUP_AGAIN}"),
    ("Java", java, "install Java 17, or point JAVA_HOME at it; make setup says how"),
    ("C++ compiler", compiler, "install g++, or name another in CXX; make setup says how"),
    ("lock", lock, "touch requirements.lock && make setup"),
    *((name, package(name), SETUP_AGAIN) for name in ("numpy", "pyarrow", "petastorm", "pyspark")),
    ("torch", torch, SETUP_AGAIN),
    ("horovod", horovod, f"{SETUP_AGAIN}, without HOROVOD_* options that exclude Gloo"),
    ("Spark", spark, "mend Java first; unset SPARK_HOME, unless it is a Spark 4.0"),
]


def main() -> int:
    """Run every check, also after one that fails; return 1 if any did."""
    remedies = []
    for name, check, remedy in CHECKS:
        try:
            mark, found = "ok  ", check()
        except Exception as error:  # a doctor reports every illness it meets
            mark, found = "FAIL", str(error) or type(error).__name__
            remedies.append(f"  {name}: {remedy}")
        print(f"{mark} {name:13} {found}", flush=True)
    print("\nTo mend:\n" + "\n".join(remedies) if remedies else "\nAll is well.")
    return 1 if remedies else 0


if __name__ == "__main__":
    sys.exit(main())
