"""The manifests of the days of a Delta table: one of each run, also of killed ones."""

from collections.abc import Iterable

from conf import storage
from conf.errors import DataError
from conf.partition import PartitionManifest, read_partition_manifest, write_partition_manifest
from conf.scoring import DS

_DIRECTORY = "_manifests"  # VACUUM passes over names with an underscore in the table's directory


def _place(root: str, ds: str) -> str:
    return f"{root}/{_DIRECTORY}/{DS}={ds}"


def write_manifest(root: str, manifest: PartitionManifest) -> None:
    """Write the manifest of a run; it counts once the log names just its files."""
    place = _place(root, manifest.ds)
    storage.make_directory(place)
    write_partition_manifest(place, manifest, f"{manifest.run_id}.json")


def manifest_of_files(root: str, ds: str, files: set[str]) -> PartitionManifest | None:
    """The manifest that names just these files; None where there is none.

    Raises:
        DataError: None of the readable ones does, and one is damaged.
    """
    damaged = None
    written = [path for path in written_manifests(root, ds) if path.endswith(".json")]
    for path in written:
        try:
            manifest = read_partition_manifest(_place(root, ds), path.rpartition("/")[2])
        except DataError as error:  # it may be of a run whose files do not count
            damaged = error
            continue
        if manifest and {file.path for file in manifest.files} == files:
            return manifest
    if damaged:
        raise damaged
    return None


def written_manifests(root: str, ds: str) -> list[str]:
    """Where those of a day are, or with ``*`` of all; also those that were being written."""
    fs, plain = storage.filesystem(_place(root, ds))
    return list(fs.glob(f"{plain}/*"))


def is_of(manifest: str, files: Iterable[str]) -> bool:
    """Whether the run of a manifest wrote one of these files, as their names tell."""
    run_id = manifest.rpartition("/")[2].removesuffix(".json")
    return any(file.rpartition("/")[2].startswith(f"part-{run_id}-") for file in files)
