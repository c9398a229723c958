"""Folders of empty images for tests of walks and patterns."""

import os
from pathlib import Path

from producer.sources import Filters, ImageFinder, Sources


def create(folder: Path, *names: str) -> None:
    """Create files below a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def find(folder: Path, **filters: object) -> tuple[list[str], ImageFinder]:
    """Return the paths that a search finds below a folder, and the search."""
    finder = ImageFinder(Sources((os.fsencode(folder),), ()), Filters(**filters))  # type: ignore[arg-type]
    return [os.path.relpath(os.fsdecode(file.path), folder) for file in finder], finder


def walk(folder: Path, **filters: object) -> tuple[list[str], dict[str, int]]:
    """Return the paths that a search finds below a folder, and what it skips."""
    found, finder = find(folder, **filters)
    return found, {category: number for category, number in finder.skipped.items() if number}
