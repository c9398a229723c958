"""A great many tiny images, quickly: PNGs of 8 x 8, told apart by a comment, and some copies of earlier ones."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

FOLDER_SIZE = 1000  # files in a folder
_SIDE = 8


@dataclass(frozen=True)
class Images:
    """Folders of images, one a job."""

    folders: tuple[Path, ...]
    items: int
    distinct: int


def make_images(place: Path, items: int, jobs: int) -> Images:
    """Make the images of a run, or find them made.

    Of each job's first half one in fifty is a copy of its neighbour, which a worker meets in the same chunk; of
    its second half one in ten is a copy from the first, captioned long before.
    """
    here = place / f"{items}-in-{jobs}"
    folders = tuple(here / f"job-{job}" for job in range(jobs))
    each = items // jobs
    originals = [[original(i, each) for i in range(each)] for _ in folders]
    if not (here / "made").exists():
        for job, folder in enumerate(folders):
            _fill(folder, job, originals[job])
        (here / "made").touch()
    return Images(folders, each * jobs, sum(len(set(numbers)) for numbers in originals))


def make_ten(place: Path) -> Path:
    """Make a folder of ten images that no other folder has."""
    folder = place / "ten"
    _fill(folder, 999, list(range(10)))
    return folder


def original(i: int, each: int) -> int:
    """Return the number of the image that the i-th file holds."""
    half = each // 2
    if i < half:
        return i - 1 if i % 50 == 1 else i
    return original(i - half, each) if i % 10 == 9 else i


def _fill(folder: Path, job: int, numbers: list[int]) -> None:
    for first in range(0, len(numbers), FOLDER_SIZE):
        below = folder / f"{first // 100_000:04d}" / f"{first // FOLDER_SIZE % 100:02d}"
        below.mkdir(parents=True, exist_ok=True)
        for i, number in enumerate(numbers[first : first + FOLDER_SIZE], start=first):
            (below / f"{i:09d}.png").write_bytes(png(job, number))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_HEAD = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(row, row + 3 * _SIDE)) for row in range(_SIDE))))
)
_END = _chunk(b"IEND", b"")


def png(job: int, number: int) -> bytes:
    """Return the bytes of one image."""
    return _HEAD + _chunk(b"tEXt", f"Comment\0{job:03d}-{number:09d}".encode()) + _END
