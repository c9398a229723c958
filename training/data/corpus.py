"""Captioned images on disk: Flickr8k in its three usual forms, and folders of the same form.

The captions are in `captions.txt` (CSV), in `Flickr8k.token.txt` with split files, or in Karpathy's `dataset_*.json`,
which also exists for Flickr30k and COCO (Karpathy & Fei-Fei 2015, arXiv:1412.2306). Copies of a corpus often have
captions without an image, images without a caption, and odd ids such as `2258277193_586949ec62.jpg.1`. What does not
match is left out and listed.
"""

import csv
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from captioning.atomic import write_text
from captioning.errors import ImageError, UsageError
from captioning.model.pixels import Preprocessing, open_image
from captioning.terminal import count
from captioning.values import digest_of
from training.progress import Tick, progress

_IMAGE_FOLDERS = ("Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images", ".")
_SPLIT_FILES = {  # names, one a line; the first file that exists counts
    "train": ("Flickr_8k.trainImages.txt", "train.txt"),
    "val": ("Flickr_8k.devImages.txt", "val.txt", "dev.txt"),
    "test": ("Flickr_8k.testImages.txt", "test.txt"),
}
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Corpus:
    """Images with their captions, in three splits.

    `train` is what a model learns from, `val` selects the best epoch and hyper-parameters, `test` selects nothing.
    """

    image_folder: Path
    captions: dict[str, tuple[str, ...]]  # by file name; not tokenized
    train: tuple[str, ...]
    val: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # a line for each caption or image that does not match
    test: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All images of all splits."""
        return (*self.train, *self.val, *self.test)

    @property
    def digest(self) -> str:
        """Identifies the set of training images, by their names."""
        return digest_of(sorted(self.train))

    def without(self, broken: Mapping[str, str]) -> "Corpus":
        """Return this corpus without broken images. `broken` has the reason of each by name, for the list."""
        train, val, test = (tuple(n for n in split if n not in broken) for split in (self.train, self.val, self.test))
        left_out = self.left_out + tuple(f"{name}: {reason}" for name, reason in broken.items())
        return replace(self, train=train, val=val, test=test, left_out=left_out)

    def first(self, train: int) -> "Corpus":
        """Return this corpus with the first `train` training images only; 0 keeps all."""
        return replace(self, train=self.train[: train or None])


def open_corpus(data: Path, cache: Path, limit: int = 0) -> Corpus:
    """Read a corpus without its broken images, and with the first `limit` training images (0: all).

    The list of broken images is cached by the files' sizes and times. What is left out is counted on stderr and listed
    in the cache when it is found. Raises UsageError when no training or no val image is left.
    """
    corpus = read_corpus(data)
    splits = (corpus.train, corpus.val, corpus.test)
    key = digest_of([file_versions(corpus.image_folder, names) for names in splits])[:20]
    broken_file, list_file = cache / f"broken-{key}.json", cache / f"left-out-{key}.txt"
    if broken_file.exists():
        corpus = corpus.without(json.loads(broken_file.read_text()))
    else:
        cache.mkdir(parents=True, exist_ok=True)
        with progress("opening every image") as tick:
            broken = broken_images(corpus, tick)
        corpus = corpus.without(broken)
        write_text(list_file, "".join(f"{line}\n" for line in corpus.left_out))
        write_text(broken_file, json.dumps(broken))
        if corpus.left_out:
            lines = count(len(corpus.left_out), "line or image", "lines and images")
            print(f"left out {lines} of {data}: see {list_file}", file=sys.stderr)
    if not corpus.train or not corpus.val:
        raise UsageError(f"{data} has {len(corpus.train)} training and {len(corpus.val)} val images; it needs both.")
    return corpus.first(limit)


def read_corpus(folder: Path) -> Corpus:
    """Read a corpus: captions in one of the three forms, images in `Images/` or beside the captions.

    Without a val split, a seventh of the training images becomes it, chosen by the hash of their names. Raises
    UsageError when the folder has another form.
    """
    pairs, splits = _read_captions(folder)
    image_folder = next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), folder)
    captions, left_out = _match(pairs, image_folder)
    if not captions:
        raise UsageError(f"no caption in {folder} belongs to an image in {image_folder}.")
    for split, names in splits.items():
        left_out += [f"{name}: in the {split} split, but without a caption" for name in names if name not in captions]
    train, val, test, leaked = _split(splits, list(captions))
    left_out += [f"{name}: in the train split and in another, so not used for training" for name in leaked]
    return Corpus(image_folder, {n: tuple(c) for n, c in captions.items()}, train, val, tuple(left_out), test)


def require_corpus(folder: Path) -> None:
    """Raise UsageError when a folder has no captions in one of the three forms: before a download, or hours of work."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UsageError(f"cannot read the data folder {folder}: {error.strerror}.") from error
    if names.isdisjoint(("captions.txt", "Flickr8k.token.txt")) and not any(folder.glob("dataset*.json")):
        raise UsageError(f"no captions.txt, no Flickr8k.token.txt and no dataset*.json in {folder}.")


def broken_images(corpus: Corpus, tick: Tick = lambda done, total: None) -> dict[str, str]:
    """Open every image of a corpus; return the reason, by name, for each that cannot be opened."""
    size = Preprocessing().size

    def reason_of(name: str) -> str | None:
        try:
            open_image((corpus.image_folder / name).read_bytes(), size)
        except (ImageError, OSError) as error:
            return str(error)
        return None

    broken: dict[str, str] = {}
    names = corpus.names
    with ThreadPoolExecutor() as readers:
        for done, (name, reason) in enumerate(zip(names, readers.map(reason_of, names), strict=True), start=1):
            if reason is not None:
                broken[name] = reason
            tick(done, len(names))
    return broken


def file_versions(folder: Path, names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return name, size in bytes and modification time in nanoseconds of each image: a cache key for its content."""
    stats = [(name, (folder / name).stat()) for name in names]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


# -- reading the three forms --


def _read_captions(folder: Path) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Return (file name, caption) pairs, and the names of each split that the corpus defines."""
    require_corpus(folder)
    karpathy = sorted(folder.glob("dataset*.json"))
    if len(karpathy) > 1:
        names = ", ".join(path.name for path in karpathy)
        raise UsageError(f"{folder} has several data sets: {names}. Leave only the one to use.")
    if karpathy:
        return _read_karpathy(karpathy[0])
    pairs = list(_read_caption_lines(folder))
    return pairs, {split: _read_names([folder / name for name in names]) for split, names in _SPLIT_FILES.items()}


def _read_caption_lines(folder: Path) -> Iterator[tuple[str, str]]:
    table, tokens = folder / "captions.txt", folder / "Flickr8k.token.txt"
    try:
        if table.exists():
            with table.open(newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    if len(row) >= 2 and row != ["image", "caption"]:
                        yield row[0], ",".join(row[1:])  # some copies do not quote commas
        else:
            with tokens.open(encoding="utf-8") as file:
                for line in file:
                    name, tab, caption = line.rstrip("\n").partition("\t")
                    if tab:
                        yield name.rpartition("#")[0], caption
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the captions in {folder} are damaged: {error}. Fetch the file again.") from error


def _read_karpathy(path: Path) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    pairs: list[tuple[str, str]] = []
    try:
        for image in json.loads(path.read_text(encoding="utf-8"))["images"]:
            name = str(Path(image.get("filepath", "")) / image["filename"])
            splits[_KARPATHY_SPLITS[image["split"]]].append(name)
            pairs += [(name, sentence["raw"]) for sentence in image["sentences"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not one of Karpathy's data sets ({error!r}). Fetch the file again.") from error
    return pairs, splits


def _read_names(paths: Sequence[Path]) -> list[str]:
    path = next((path for path in paths if path.exists()), None)
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path else []
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a list of names: {error}. Fetch the file again.") from error
    return [line.strip() for line in lines if line.strip()]


# -- matching and splitting --


def _match(pairs: Iterable[tuple[str, str]], image_folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the captions of each image that exists, and a line for each caption that is left out."""
    captions: dict[str, list[str]] = {}
    left_out: list[str] = []
    exists: dict[str, bool] = {}
    for name, caption in pairs:
        if name not in exists:
            exists[name] = (image_folder / name).is_file()
        if exists[name] and caption.strip():
            captions.setdefault(name, []).append(caption.strip())
        else:
            left_out.append(f"{name}: {'no such image' if caption.strip() else 'an empty caption'}")
    return captions, left_out


def _split(splits: Mapping[str, Sequence[str]], captioned: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return train, val and test, all with captions, and the training images that are also in val or test."""
    known = set(captioned)
    train, val, test = (tuple(n for n in splits.get(s, ()) if n in known) for s in ("train", "val", "test"))
    if not val:  # never taken from the test split
        train, val = _divide(train or [n for n in captioned if n not in test])
    held_out = {*val, *test}
    train = train or tuple(n for n in captioned if n not in held_out)
    return tuple(n for n in train if n not in held_out), val, test, tuple(n for n in train if n in held_out)


def _divide(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    chosen = {name for name in names if hashlib.sha256(name.encode()).digest()[0] % 7 == 0}
    if not chosen and len(names) > 1:
        chosen = {min(names)}
    return tuple(n for n in names if n not in chosen), tuple(n for n in names if n in chosen)
