"""Captions without images, from which decoders learn words and sentences that no captioned image has."""

import gzip
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from captioning.errors import UsageError
from captioning.terminal import count
from training.data.corpus import Corpus
from training.data.tokens import tokenize

Words = tuple[str, ...]


def read_texts(files: Sequence[Path], corpus: Corpus) -> list[Words]:
    """Read captions, one a line, from text files or gzip files; return their words, each caption once.

    Every sentence that is a reference of a val or test image is dropped, whatever its case and punctuation, and counted
    on stderr: a model must not learn the captions that it is scored with. Raises UsageError when a file cannot be read.
    """
    references = {tuple(tokenize(text)) for name in (*corpus.val, *corpus.test) for text in corpus.captions[name]}
    found: dict[Words, None] = {}
    for path in files:
        captions = dict.fromkeys(words for line in _lines(path) if (words := tuple(tokenize(line))))
        known = references & captions.keys()
        kept = {words: None for words in captions if words not in known}
        print(
            f"{path}: {count(len(kept), 'caption')}; dropped {len(known)} that {'is' if len(known) == 1 else 'are'} a"
            " reference of a val or test image",
            file=sys.stderr,
        )
        found |= kept
    return list(found)


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UsageError(f"--text {path}: cannot read captions from it: {reason}.") from error
