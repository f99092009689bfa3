"""Zip our packages for ``spark-submit --py-files``: the same source gives the same bytes."""

import zipfile
from pathlib import Path

from conf.software import VERSION

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("conf", "feature_eng", "jobs", "nfm")


def main() -> None:
    """Write ``dist/nfm_pipeline-<version>.zip`` and print its path."""
    target = ROOT / "dist" / f"nfm_pipeline-{VERSION}.zip"
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
        data = [ROOT / "jobs/comparison.yaml", *ROOT.glob("conf/presets/*.yaml")]
        for source in sorted([*modules, *data]):
            # A ZipInfo made by hand carries neither the file's time nor its mode.
            entry = zipfile.ZipInfo(source.relative_to(ROOT).as_posix())
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, source.read_bytes(), zipfile.ZIP_DEFLATED)
    print(target.relative_to(ROOT))


if __name__ == "__main__":
    main()
