"""Which software made an output."""

from importlib.metadata import version

VERSION = "0.1.0"  # ours; pyproject.toml takes it from here


def software(*packages: str) -> dict[str, str]:
    """Our version and those of the packages that an output depends on, for its manifest."""
    return {"nfm-pipeline": VERSION, **{name: version(name) for name in packages}}
