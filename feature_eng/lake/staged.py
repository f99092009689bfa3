"""The files of a partition before they are published."""

from conf import storage
from conf.errors import RunError
from conf.partition import PartitionManifest


def keep_named_files(staging: str, manifest: PartitionManifest) -> None:
    """Remove what a manifest does not name: files of tasks that Spark tried again.

    Raises:
        RunError: A file that it names is not there, or not as it was written.
    """
    fs, plain = storage.filesystem(staging)
    found = {entry["name"].rpartition("/")[2]: entry for entry in fs.ls(plain, detail=True)}
    for file in manifest.files:
        size = found.pop(file.path)["size"] if file.path in found else "no"
        if size != file.bytes:
            raise RunError(
                f"'{staging}/{file.path}' should hold {file.bytes} bytes and holds {size}: the "
                f"store lost what was written, and nothing was published; run again"
            )
    for entry in found.values():
        fs.rm(entry["name"], recursive=True)
