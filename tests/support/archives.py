"""Zip and tar files for tests, also those that no honest program writes."""

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

Files = Mapping[str, bytes] | Iterable[tuple[str, bytes]]


def pairs(files: Files) -> list[tuple[str, bytes]]:
    """Return names and contents; an iterable of pairs may have a name twice."""
    return list(files.items() if isinstance(files, Mapping) else files)


def write_zip(path: Path, files: Files, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in pairs(files):
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def write_tar(path: Path, files: Files, compression: str = "") -> Path:
    """Write a tar file; `compression` is gz, bz2 or xz."""
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, data in pairs(files):
            add(archive, tarfile.TarInfo(name), data)
    return path


def add(archive: tarfile.TarFile, info: tarfile.TarInfo, data: bytes = b"") -> None:
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_archive(path: Path, files: Files) -> Path:
    """Write an archive of the kind that its name says."""
    if path.suffix == ".zip":
        return write_zip(path, files)
    return write_tar(path, files, {".tgz": "gz", ".tbz2": "bz2", ".txz": "xz"}.get(path.suffix, ""))
