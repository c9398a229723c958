"""Captioned pictures on disk: Flickr8k in both of its forms, and folders made like it.

A copy of the corpus may hold captions without a picture, pictures without a caption and odd ids such as
`2258277193_586949ec62.jpg.1`; what doesn't match up is left out and counted.
"""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from captioning.errors import UsageError
from captioning.values import digest_of


@dataclass(frozen=True)
class Corpus:
    """Pictures with their captions, divided into those to learn from and those to choose by."""

    pictures: Path  # the folder that holds the files
    captions: dict[str, tuple[str, ...]]  # file name -> its sentences, as written
    train: tuple[str, ...]
    val: tuple[str, ...]
    left_out: int  # caption lines without a picture

    @property
    def digest(self) -> str:
        """Tells which pictures a model learned from."""
        return digest_of(sorted(self.train))


def read_corpus(folder: Path) -> Corpus:
    """Read `captions.txt` (CSV with the header image,caption) or `Flickr8k.token.txt`, `Images/` and the splits.

    Without the official split files, a seventh of the pictures, chosen by the hash of their names, is for
    choosing. Raises UsageError when the folder isn't like that.
    """
    pictures = next((p for p in (folder / "Images", folder / "Flicker8k_Dataset", folder) if p.is_dir()), folder)
    try:
        at_hand = {path.name for path in pictures.iterdir()}
    except OSError as trouble:
        raise UsageError(f"can't read the data folder {folder}: {trouble.strerror}.") from trouble
    captions: dict[str, list[str]] = {}
    left_out = 0
    for name, sentence in _caption_lines(folder):
        if name in at_hand and sentence.strip():
            captions.setdefault(name, []).append(sentence.strip())
        else:
            left_out += 1
    if not captions:
        raise UsageError(f"no caption in {folder} belongs to a picture in {pictures}.")
    train, val = _splits(folder, list(captions))
    return Corpus(pictures, {n: tuple(c) for n, c in captions.items()}, train, val, left_out)


def _caption_lines(folder: Path) -> Iterator[tuple[str, str]]:
    table, tokens = folder / "captions.txt", folder / "Flickr8k.token.txt"
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                if len(row) >= 2 and row != ["image", "caption"]:
                    yield row[0], ",".join(row[1:])
    elif tokens.exists():
        with tokens.open(encoding="utf-8") as file:
            for line in file:
                name, tab, sentence = line.rstrip("\n").partition("\t")
                if tab:
                    yield name.rpartition("#")[0], sentence
    else:
        raise UsageError(f"no captions.txt and no Flickr8k.token.txt in {folder}.")


def _splits(folder: Path, names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    train = _listed(folder / "Flickr_8k.trainImages.txt", names)
    val = _listed(folder / "Flickr_8k.devImages.txt", names)
    if train and val:
        return train, val
    chosen = {name for name in names if hashlib.sha256(name.encode()).digest()[0] % 7 == 0}
    return tuple(n for n in names if n not in chosen), tuple(n for n in names if n in chosen)


def _listed(path: Path, names: list[str]) -> tuple[str, ...]:
    if not path.exists():
        return ()
    known = set(names)
    return tuple(name for name in path.read_text(encoding="utf-8").split() if name in known)
