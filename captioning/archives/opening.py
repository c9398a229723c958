"""Open an archive by its content, and list it completely."""

import functools
import os
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from captioning.archives.contents import Archive, ArchiveLimits, Member
from captioning.archives.tars import TarArchive
from captioning.archives.zips import ZipArchive

_ZIP = (b"PK\3\4", b"PK\5\6")  # the second is an empty one


def open_archive(file: BinaryIO, limits: ArchiveLimits) -> Archive:
    """Return the archive in an open file, which it closes. Raises ArchiveError.

    It is a zip file only if it begins as one: a tar file that ends with a zip file looks like one from its end.
    """
    try:
        start = file.read(4)
        file.seek(0)
        return (ZipArchive if start in _ZIP else TarArchive)(file, limits)
    except BaseException:
        file.close()
        raise


def open_archive_at(path: bytes, limits: ArchiveLimits) -> Archive:
    """Return the archive at a path. Raises ArchiveError and OSError."""
    return open_archive(Path(os.fsdecode(path)).open("rb"), limits)


def list_archive(path: bytes, limits: ArchiveLimits) -> list[Member]:
    """Return the members of an archive in their order: all of them, or none. Raises ArchiveError and OSError.

    A name that occurs twice is a problem: what is read might not be what unpacking gives.
    """
    status = Path(os.fsdecode(path)).stat()
    return _list(path, limits, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@functools.lru_cache(maxsize=1)  # a submit looks twice: whether there is an image, and for all of them
def _list(path: bytes, limits: ArchiveLimits, _state: tuple[int, int, int]) -> list[Member]:
    with closing(open_archive_at(path, limits)) as archive:
        members = list(archive.members())
    times = Counter(member.name for member in members)
    return [m if times[m.name] == 1 else Member(m.name, m.size, "member with a repeated name") for m in members]
