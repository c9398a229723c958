"""Corpora and encoders from the internet, for those who have it."""

from dataclasses import dataclass
from pathlib import Path

import pooch

from captioning.errors import UsageError
from training.data.corpus import read_corpus
from training.data.encoders import IMAGENET, open_encoder


@dataclass(frozen=True)
class Source:
    """Archives that make a corpus when they are unpacked into one folder."""

    urls: tuple[str, ...]
    terms: str


SOURCES = {
    "flickr8k": Source(
        (
            "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_Dataset.zip",
            "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip",
        ),
        "for non-commercial research and education; cite Hodosh, Young, Hockenmaier 2013, JAIR 47, 853-899",
    )
}


def fetch(what: str, folder: Path, sources: dict[str, Source] = SOURCES) -> str:
    """Download and check; return a line on what is there now. Raises UsageError when it can't be had.

    An archive that is there already isn't fetched again. A corpus is checked by being read.
    """
    if what in IMAGENET:
        file = open_encoder(Path(what), None, folder)
        return f"{what}: give --encoder {file.name}; digest {file.digest[:16]}"
    if what not in sources:
        raise UsageError(f"there is no {what!r} to fetch; there are {', '.join([*sources, *IMAGENET])}.")
    source = sources[what]
    folder.mkdir(parents=True, exist_ok=True)
    for url in source.urls:
        try:
            pooch.retrieve(url, None, Path(url).name, folder, processor=pooch.Unzip(extract_dir="."), progressbar=True)
        except Exception as error:  # the library lets through whatever its transport and zipfile raise
            raise UsageError(
                f"can't fetch {url}: {error}. Put the unpacked corpus into {folder} yourself."
            ) from error
    corpus = read_corpus(folder)
    counts = f"{len(corpus.train)} training, {len(corpus.val)} val and {len(corpus.test)} test images"
    return f"{what}: {counts} in {folder}, {len(corpus.left_out)} lines left out; {source.terms}"
