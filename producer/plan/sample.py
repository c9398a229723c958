"""A sample of files, stratified by size: what a file takes depends most on its bytes, which a walk knows.

A stratum has the files from a power of two to the next, so that no list of all files is needed.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from captioning.store.files import FoundFile

MOST = 64  # files of a sample
LEAST = 4  # files of a stratum in it, if it has so many
_SEED = 20150213  # the same folder gives the same sample


@dataclass
class Stratum:
    """The files of about one size: how many there are, their bytes, and some of them at random."""

    count: int = 0
    bytes: int = 0
    files: list[FoundFile] = field(default_factory=list)

    def add(self, file: FoundFile, rng: random.Random) -> None:
        """Count a file. Each has the same chance to be one of `files` (reservoir sampling)."""
        self.count += 1
        self.bytes += file.size
        if len(self.files) < MOST:
            self.files.append(file)
        elif (place := rng.randrange(self.count)) < MOST:
            self.files[place] = file


class Strata:
    """All files that need work, by size."""

    def __init__(self) -> None:
        self._rng = random.Random(_SEED)
        self._by_size: dict[int, Stratum] = {}

    def add(self, files: Iterable[FoundFile]) -> None:
        for file in files:
            self._by_size.setdefault(file.size.bit_length(), Stratum()).add(file, self._rng)

    @property
    def all(self) -> list[Stratum]:
        """The strata, the smallest files first."""
        return [self._by_size[size] for size in sorted(self._by_size)]

    def sample(self) -> list[tuple[int, FoundFile]]:
        """Return files with the index of their stratum in `all`: one of each first, then the second of each, and so on.

        A sample that is cut short so still has files of every size.
        """
        strata = self.all
        shares = allocate([stratum.count for stratum in strata], [stratum.bytes for stratum in strata])
        chosen = [(i, list(stratum.files)) for i, stratum in enumerate(strata)]
        for _, files in chosen:
            self._rng.shuffle(files)
        return [(i, files[turn]) for turn in range(max(shares, default=0)) for i, files in chosen if turn < shares[i]]


def allocate(counts: list[int], sizes: list[int], most: int = MOST, least: int = LEAST) -> list[int]:
    """Return how many files of each stratum are measured: some of each, the others in proportion to bytes.

    Never more than a stratum has; about `most` in all.
    """
    shares = [min(count, least) for count in counts]
    left = max(0, most - sum(shares))
    total = sum(sizes) or 1
    return [
        min(count, share + round(left * size / total)) for count, share, size in zip(counts, shares, sizes, strict=True)
    ]
