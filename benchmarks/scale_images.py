"""Generate many tiny images quickly: PNGs of 8 x 8 pixels that differ in a comment, some of them copies of others."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

FOLDER_SIZE = 1000  # files in a folder
_SIDE = 8


@dataclass(frozen=True)
class Images:
    """The images of a run, one folder per job."""

    folders: tuple[Path, ...]
    items: int
    distinct: int


def make_images(parent: Path, items: int, jobs: int) -> Images:
    """Generate the images of a run, unless `parent` contains them already.

    In the first half of each job, one image of fifty is a copy of its neighbour, which a worker finds in the same
    chunk. In the second half, one of ten is a copy of an image of the first half, which was captioned long before.
    """
    root = parent / f"{items}-in-{jobs}"
    folders = tuple(root / f"job-{job}" for job in range(jobs))
    per_job = items // jobs
    numbers = [original(i, per_job) for i in range(per_job)]
    if not (root / "made").exists():
        for job, folder in enumerate(folders):
            _fill(folder, job, numbers)
        (root / "made").touch()
    return Images(folders, per_job * jobs, len(set(numbers)) * jobs)


def make_ten_images(parent: Path) -> Path:
    """Generate a folder of ten images that no other folder contains."""
    folder = parent / "ten"
    _fill(folder, 999, list(range(10)))
    return folder


def original(i: int, per_job: int) -> int:
    """Return the number of the image in the i-th file of a job: `i`, or a smaller number for a copy."""
    half = per_job // 2
    if i < half:
        return i - 1 if i % 50 == 1 else i
    return original(i - half, per_job) if i % 10 == 9 else i


def _fill(folder: Path, job: int, numbers: list[int]) -> None:
    for first in range(0, len(numbers), FOLDER_SIZE):
        below = folder / f"{first // 100_000:04d}" / f"{first // FOLDER_SIZE % 100:02d}"
        below.mkdir(parents=True, exist_ok=True)
        for i, number in enumerate(numbers[first : first + FOLDER_SIZE], start=first):
            (below / f"{i:09d}.png").write_bytes(png(job, number))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


_HEAD = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(row, row + 3 * _SIDE)) for row in range(_SIDE))))
)
_END = _chunk(b"IEND", b"")


def png(job: int, number: int) -> bytes:
    """Return the bytes of one image."""
    return _HEAD + _chunk(b"tEXt", f"Comment\0{job:03d}-{number:09d}".encode()) + _END
