"""The record of a bundle: the files that it consists of, their sizes and checksums.

It is the last file to be written, so that a bundle without one is not whole.
"""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, ValidationError

from conf import storage
from conf.errors import DataError
from conf.section import Section

RECORD = "bundle.json"
VERSION: Literal[1] = 1

_COPY = "copy it again, or wait until that is through"
# Files that this process has read and found whole, by what changes when they do. A backfill scores
# day after day with one bundle, and to read a large one takes longer than to score a small day.
_WHOLE: set[tuple[str, ...]] = set()


class BundleFile(Section):
    """A file of a bundle."""

    bytes: int = Field(ge=0)
    sha256: str


class BundleRecord(Section):
    """All files of a bundle but this one."""

    version: Literal[1]
    files: dict[str, BundleFile] = Field(description="By path relative to the bundle.")


def write_record(directory: str) -> None:
    """Record the files of a directory, read back from where they were written."""
    fs, plain = storage.filesystem(directory)
    files = {
        path.removeprefix(f"{plain}/"): BundleFile(bytes=fs.size(path), sha256=_sha256(fs, path))
        for path in sorted(fs.find(plain))
    }
    record = BundleRecord(version=VERSION, files=files)
    storage.write_text(f"{directory}/{RECORD}", record.model_dump_json(indent=1) + "\n")


def check_files(bundle: str) -> None:
    """Hold the files of a bundle against its record; reads all that changed since the last time.

    Raises:
        DataError: One is missing, cut short or another one, or a newer release wrote the bundle.
    """
    record = _read_record(bundle)
    fs, plain = storage.filesystem(bundle)
    for name, expected in record.files.items():
        try:
            size = fs.size(f"{plain}/{name}")
        except FileNotFoundError:
            raise DataError(
                f"bundle '{bundle}' is half-copied: its file '{name}' of {expected.bytes:,} bytes "
                f"is missing; {_COPY}"
            ) from None
        if size < expected.bytes:
            raise DataError(
                f"bundle '{bundle}' is half-copied: its file '{name}' has {size:,} bytes of "
                f"{expected.bytes:,}; {_COPY}"
            )
    state = record.model_dump_json(), *(fs.ukey(f"{plain}/{name}") for name in record.files)
    if state in _WHOLE:
        return
    for name, expected in record.files.items():
        if _sha256(fs, f"{plain}/{name}") != expected.sha256:
            raise DataError(
                f"bundle '{bundle}' is damaged: its file '{name}' is another than was published "
                f"(its SHA-256 differs); copy it again, use another bundle, or train again"
            )
    _WHOLE.add(state)


def _read_record(bundle: str) -> BundleRecord:
    try:
        data = json.loads(storage.read_text(f"{bundle}/{RECORD}"))
        version = data["version"]
        if isinstance(version, int) and version > VERSION:
            raise DataError(
                f"a newer release wrote bundle '{bundle}' (version {version}, this one reads "
                f"{VERSION}): upgrade nfm-pipeline, or use another bundle"
            )
        return BundleRecord.model_validate(data)
    except FileNotFoundError:
        raise DataError(
            f"bundle '{bundle}' is half-copied: {RECORD}, its last file, is missing; {_COPY}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DataError(
            f"bundle '{bundle}' is damaged or half-copied ({RECORD}: {what}); {_COPY}"
        ) from None


def _sha256(fs: Any, path: str) -> str:
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
