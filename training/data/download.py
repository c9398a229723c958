"""Downloads corpora and encoders from the internet."""

from dataclasses import dataclass
from pathlib import Path

import pooch

from captioning.errors import UsageError
from captioning.terminal import count
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


def fetch(name: str, folder: Path, sources: dict[str, Source] = SOURCES) -> str:
    """Download a corpus or an encoder, check it, and return a line that describes it.

    An archive that is already in `folder` is not downloaded again. A corpus is checked by reading it. Raises
    UsageError for an unknown name or a failed download.
    """
    if name in IMAGENET:
        file = open_encoder(Path(name), None, folder)
        return f"{name}: use it with --encoder {file.name}; digest {file.digest[:16]}"
    if name not in sources:
        raise UsageError(f"there is no {name!r} to fetch; choose one of {', '.join([*sources, *IMAGENET])}.")
    source = sources[name]
    folder.mkdir(parents=True, exist_ok=True)
    for url in source.urls:
        try:
            pooch.retrieve(url, None, Path(url).name, folder, processor=pooch.Unzip(extract_dir="."), progressbar=True)
        except Exception as error:  # pooch passes on every exception of its transport and of zipfile
            raise UsageError(f"cannot fetch {url}: {error}. Put the unpacked corpus into {folder} yourself.") from error
    corpus = read_corpus(folder)
    images = f"{len(corpus.train)} training, {len(corpus.val)} val and {len(corpus.test)} test images"
    return f"{name}: {images} in {folder}, {count(len(corpus.left_out), 'line')} left out; {source.terms}"
