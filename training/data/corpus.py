"""Captioned images on disk: Flickr8k in its three usual forms, and folders made like it.

`captions.txt` (CSV), `Flickr8k.token.txt` with split files, or Karpathy's `dataset_*.json`, which also covers
Flickr30k and COCO (Karpathy & Fei-Fei 2015, arXiv:1412.2306). A copy of the corpus may hold captions without a
image, images without a caption and odd ids such as `2258277193_586949ec62.jpg.1`; what doesn't match up is left
out, counted and listed.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from captioning.errors import ImageError, UsageError
from captioning.model.pixels import open_image
from captioning.values import digest_of

_IMAGE_FOLDERS = ("Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", ".")
_SPLIT_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Corpus:
    """Images with their captions, divided into those to learn from, to choose by and to judge by."""

    images: Path  # the folder that holds the files
    captions: dict[str, tuple[str, ...]]  # file name -> its sentences, as written
    train: tuple[str, ...]
    val: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # what doesn't match up, a line each
    test: tuple[str, ...] = ()  # nothing is ever chosen by these

    @property
    def names(self) -> tuple[str, ...]:
        """All images of all splits."""
        return (*self.train, *self.val, *self.test)

    @property
    def digest(self) -> str:
        """Tells which images a model learned from."""
        return digest_of(sorted(self.train))

    def without(self, broken: Mapping[str, str]) -> "Corpus":
        """Return this corpus without the images that can't be opened, listed with their reason."""
        train, val, test = (tuple(n for n in part if n not in broken) for part in (self.train, self.val, self.test))
        left_out = self.left_out + tuple(f"{name}: {why}" for name, why in broken.items())
        return replace(self, train=train, val=val, test=test, left_out=left_out)

    def first(self, train: int) -> "Corpus":
        """Return this corpus with only the first so many training images; 0 keeps all."""
        return replace(self, train=self.train[: train or None])


def read_corpus(folder: Path) -> Corpus:
    """Read a corpus: captions in one of the three forms, images in `Images/` or beside them.

    Without splits, a seventh of the images, chosen by the hash of their names, is for choosing. Raises
    UsageError when the folder isn't like that.
    """
    images = next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), folder)
    try:
        list(folder.iterdir())
    except OSError as error:
        raise UsageError(f"can't read the data folder {folder}: {error.strerror}.") from error
    karpathy = sorted(folder.glob("dataset*.json"))
    if len(karpathy) > 1:
        raise UsageError(f"{folder} holds {', '.join(p.name for p in karpathy)}: leave the one that is meant.")
    if karpathy:
        lines, splits = _karpathy(karpathy[0])
    else:
        lines = list(_caption_lines(folder))
        splits = {name: _listed(folder / file) for name, file in _SPLIT_FILES.items()}
    captions: dict[str, list[str]] = {}
    left_out: list[str] = []
    there: dict[str, bool] = {}
    for name, sentence in lines:
        if name not in there:
            there[name] = (images / name).is_file()
        if there[name] and sentence.strip():
            captions.setdefault(name, []).append(sentence.strip())
        else:
            left_out.append(f"{name}: {'no such image' if sentence.strip() else 'an empty caption'}")
    if not captions:
        raise UsageError(f"no caption in {folder} belongs to an image in {images}.")
    for split, names in splits.items():
        left_out += [f"{name}: in the {split} split, but without a caption" for name in names if name not in captions]
    train, val, test, twice = _parts(splits, list(captions))
    left_out += [f"{name}: in the train split and in another, so not learned from" for name in twice]
    return Corpus(images, {n: tuple(c) for n, c in captions.items()}, train, val, tuple(left_out), test)


def broken_images(corpus: Corpus, tick: Callable[[int, int], None] = lambda done, of: None) -> dict[str, str]:
    """Open every image of a corpus; return why, by name, for those that can't be. `tick(done, of)` as it goes."""

    def fault(name: str) -> str | None:
        try:
            open_image((corpus.images / name).read_bytes(), 224)
        except (ImageError, OSError) as wrong:
            return str(wrong)
        return None

    broken: dict[str, str] = {}
    with ThreadPoolExecutor() as readers:
        for done, (name, wrong) in enumerate(zip(corpus.names, readers.map(fault, corpus.names), strict=True), start=1):
            if wrong is not None:
                broken[name] = wrong
            tick(done, len(corpus.names))
    return broken


def _caption_lines(folder: Path) -> Iterator[tuple[str, str]]:
    table, tokens = folder / "captions.txt", folder / "Flickr8k.token.txt"
    try:
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
            raise UsageError(f"no captions.txt, no Flickr8k.token.txt and no dataset*.json in {folder}.")
    except (UnicodeDecodeError, csv.Error) as wrong:
        raise UsageError(f"the captions in {folder} are damaged: {wrong}. Fetch the file again.") from wrong


def _karpathy(path: Path) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    lines: list[tuple[str, str]] = []
    try:
        for image in json.loads(path.read_text(encoding="utf-8"))["images"]:
            name = str(Path(image.get("filepath", "")) / image["filename"])
            splits[_KARPATHY_SPLITS[image["split"]]].append(name)
            lines += [(name, sentence["raw"]) for sentence in image["sentences"]]
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise UsageError(f"{path} is not one of Karpathy's data sets ({wrong!r}). Fetch the file again.") from wrong
    return lines, splits


def _parts(splits: Mapping[str, Sequence[str]], captioned: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return train, val and test, all captioned, and what was for training and for judging too."""
    known = set(captioned)
    train, val, test = (tuple(n for n in splits.get(s, ()) if n in known) for s in ("train", "val", "test"))
    if not val:  # never out of what was set aside
        train, val = _divided(train or [n for n in captioned if n not in test])
    judged = {*val, *test}
    train = train or tuple(n for n in captioned if n not in judged)
    return tuple(n for n in train if n not in judged), val, test, tuple(n for n in train if n in judged)


def _divided(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    chosen = {name for name in names if hashlib.sha256(name.encode()).digest()[0] % 7 == 0}
    if not chosen and len(names) > 1:
        chosen = {min(names)}
    return tuple(n for n in names if n not in chosen), tuple(n for n in names if n in chosen)


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except UnicodeDecodeError as wrong:
        raise UsageError(f"{path} is not a list of names: {wrong}. Fetch the file again.") from wrong
    return [line.strip() for line in lines if line.strip()]
