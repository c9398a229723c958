"""Several corpora that a run learns from together, each with a weight.

They become one corpus. Its image folder is the one that contains all of theirs. So a name is a path below it, and
nothing that reads a corpus needs to know of how many it was made.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from captioning.errors import UsageError
from training.data.corpus import Corpus, open_corpus, require_corpus


@dataclass(frozen=True)
class DataFolder:
    """A corpus to learn from, as `--data FOLDER=WEIGHT` names it."""

    folder: Path
    weight: float = 1.0


@dataclass(frozen=True)
class DataSet:
    """A corpus of a run. Its names are those of the run's whole corpus."""

    name: str  # of its folder; unique
    weight: float  # how often an epoch draws each training image: 2 is twice, 0.5 half of the images
    corpus: Corpus
    digest: str  # of the names of its training images in its own folder, see `Corpus.digest`


def parse_data(texts: Sequence[str]) -> tuple[DataFolder, ...]:
    """Read FOLDER or FOLDER=WEIGHT. Raises UsageError for a wrong weight, or a folder without captions or twice."""
    folders = tuple(_parse(text) for text in texts)
    for data in folders:
        require_corpus(data.folder)
    paths = [data.folder.resolve() for data in folders]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise UsageError(f"--data names {twice} twice: give it once, with a weight: --data {twice}=2.")
    return folders


def _parse(text: str) -> DataFolder:
    folder, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return DataFolder(Path(text))
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise UsageError(f"--data {text}: the weight must be a number above 0, at most 1000, not {weight!r}.")
    return DataFolder(Path(folder), value)


def open_data(folders: Sequence[DataFolder], cache: Path, limit: int = 0) -> tuple[Corpus, tuple[DataSet, ...]]:
    """Return one corpus with all images, and the data sets that it consists of, as `open_corpus` reads them.

    `limit` is the number of training images that are used of each, from the first; 0: all.
    """
    corpora = [open_corpus(data.folder, cache, limit) for data in folders]
    if len(corpora) == 1:
        (corpus,) = corpora
        return corpus, (DataSet(_names(folders)[0], folders[0].weight, corpus, corpus.digest),)
    shared = Path(os.path.commonpath([corpus.image_folder.resolve() for corpus in corpora]))
    placed = [_below(shared, corpus) for corpus in corpora]
    whole = Corpus(
        shared,
        {name: texts for corpus in placed for name, texts in corpus.captions.items()},
        tuple(name for corpus in placed for name in corpus.train),
        tuple(name for corpus in placed for name in corpus.val),
        tuple(line for corpus in placed for line in corpus.left_out),
        tuple(name for corpus in placed for name in corpus.test),
    )
    return whole, tuple(
        DataSet(name, data.weight, moved, corpus.digest)
        for name, data, moved, corpus in zip(_names(folders), folders, placed, corpora, strict=True)
    )


def _names(folders: Sequence[DataFolder]) -> list[str]:
    """Return the names of the folders, numbered where several have the same: captions-1, captions-2."""
    names = [data.folder.resolve().name for data in folders]
    return [f"{name}-{names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _below(folder: Path, corpus: Corpus) -> Corpus:
    """Return a corpus with names that are paths below another folder, which contains its own."""
    prefix = corpus.image_folder.resolve().relative_to(folder)

    def renamed(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(str(prefix / name) for name in names)

    captions = dict(zip(renamed(tuple(corpus.captions)), corpus.captions.values(), strict=True))
    return replace(
        corpus, image_folder=folder, captions=captions,
        train=renamed(corpus.train), val=renamed(corpus.val), test=renamed(corpus.test),
    )  # fmt: skip
