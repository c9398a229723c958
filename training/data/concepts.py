"""Concepts for training: what a classifier might see where a caption is written, and captions that name another thing.

`class_words.txt` has the plain words of each of ImageNet's 1000 classes, in torchvision's order, those of its name
before those of its kind. It is made by `scripts/class_words.py` from the classes' names and WordNet.
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from itertools import chain

import torch

from captioning.model.concepts import Concepts
from captioning.model.vocabulary import PAD, Vocabulary

_SEEN = 0.8  # share of a caption's own concepts that are given with it; the others the classifier has missed
_WRONG = 5  # classes besides, which are not in the image
_MOST_WRONG = 0.5  # of the probability that is left: of an image that shows none of its classes, it is unsure
_SWAPPED = 0.3  # share of captions in which a concept is replaced by another
_MOST_WORDS = 3  # of a phrase

Phrases = tuple[str, ...]
Named = tuple[int, int, str]
"""Where a caption names a phrase: its first word, the number of words, and the phrase, in singular."""


def class_words() -> list[Phrases]:
    """Return the phrases of each class, in the order of the classes."""
    lines = files("training.data").joinpath("class_words.txt").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(", ")) for line in lines]


class ConceptDrawer:
    """Draws the concepts that a classifier might see in the image of a caption."""

    def __init__(self, classes: Sequence[Phrases], vocabulary: Vocabulary, count: int) -> None:
        """`count` concepts are drawn for each caption."""
        self.count, self.vocabulary = count, vocabulary
        self._known = set(vocabulary.words)
        kept = (tuple(p for p in phrases if self._known.issuperset(p.split())) for phrases in classes)
        self.classes = [phrases for phrases in kept if phrases]

    @cached_property
    def _classes_of(self) -> dict[str, list[Phrases]]:
        found: dict[str, list[Phrases]] = {}
        for phrases in self.classes:
            for phrase in phrases:
                found.setdefault(phrase, []).append(phrases)
        return found

    @cached_property
    def _by_words(self) -> dict[Phrases, str]:
        """The phrases by their words, in singular and plural."""
        found = {}
        for phrase in self._classes_of:
            *first, last = phrase.split()
            for form in (last, f"{last}s", f"{last}es", f"{last[:-1]}ies" if last.endswith("y") else last):
                found[(*first, form)] = phrase
        return found

    def named_in(self, words: Sequence[str]) -> list[Named]:
        """Return the phrases that a caption has; of two that overlap, the longer."""
        found, i = [], 0
        while i < len(words):
            for length in range(_MOST_WORDS, 0, -1):
                phrase = self._by_words.get(tuple(words[i : i + length]))
                if phrase is not None and i + length <= len(words):
                    found.append((i, length, phrase))
                    i += length - 1
                    break
            i += 1
        return found

    def swap(self, captions: Sequence[Sequence[str]], rng: random.Random) -> tuple[list[Sequence[str]], str | None]:
        """Return an image's captions with another thing in the place of one that they name, and that thing.

        A decoder that has learned to write what the concepts say writes words that few captions have.
        """
        named = [self.named_in(words) for words in captions]
        counts = Counter(phrase for found in named for phrase in {phrase for _, _, phrase in found})
        often = [phrase for phrase, n in counts.items() if n >= (len(captions) + 1) // 2]
        if not often:
            return list(captions), None
        old, new = rng.choice(often), rng.choice(rng.choice(self.classes))
        return [self._replaced(*pair, old, new) for pair in zip(captions, named, strict=True)], new

    def _replaced(self, words: Sequence[str], named: Sequence[Named], old: str, new: str) -> list[str]:
        """Return a caption with a phrase in the place of another, in the same number if there is a word for it."""
        *first, last = new.split()
        several = [*first, f"{last}s" if f"{last}s" in self._known else last]
        left = list(words)
        for start, length, _ in reversed([found for found in named if found[2] == old]):
            one = list(words[start : start + length]) == old.split()
            left[start : start + length] = new.split() if one else several
            if start and left[start - 1] in ("a", "an"):
                left[start - 1] = "an" if new[0] in "aeiou" else "a"
        return left

    def draw(self, captions: Sequence[Sequence[str]], rng: random.Random) -> tuple[list[Sequence[str]], Concepts]:
        """Return R captions, some with swapped things, and the concepts of each: most of its own, and wrong ones."""
        texts, rows = [], []
        for caption in captions:
            [words], new = self.swap([caption], rng) if rng.random() < _SWAPPED else ([caption], None)
            own = dict.fromkeys(phrase for _, _, phrase in self.named_in(words))
            texts.append(words)
            rows.append(self.seen([p for p in own if p == new or rng.random() < _SEEN], rng))
        return texts, self.table(rows)

    def seen(self, own: Sequence[str], rng: random.Random) -> dict[str, float]:
        """Return probabilities of phrases: of a class of each that is in the image, and of other classes."""
        classes = [rng.choice(self._classes_of[phrase]) for phrase in rng.sample(own, len(own))]
        classes += rng.choices(self.classes, k=_WRONG)
        found: dict[str, float] = {}
        left = 1.0
        for place, phrases in enumerate(classes):
            share = left * (rng.uniform(0.3, 1) if place < len(own) else _MOST_WRONG * rng.random() ** 2)
            left -= share
            for phrase in phrases:
                found[phrase] = found.get(phrase, 0) + share
        return dict(sorted(found.items(), key=lambda item: -item[1])[: self.count])

    def table(self, rows: Sequence[dict[str, float]]) -> Concepts:
        """Return concepts as tensors, from the probabilities of each caption's phrases."""
        ids = [[self.vocabulary.encode(phrase.split()) for phrase in row] for row in rows]
        longest = max(map(len, chain.from_iterable(ids)), default=1)
        padded = [[own + [PAD] * (longest - len(own)) for own in row] for row in ids]
        padded = [row + [[PAD] * longest] * (self.count - len(row)) for row in padded]
        weights = [[*row.values(), *[0.0] * (self.count - len(row))] for row in rows]
        return Concepts(torch.tensor(padded), torch.tensor(weights))
