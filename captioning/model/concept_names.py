"""Which concepts a caption names, in any of their forms."""

from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from captioning.model.concepts import ConceptClassifier

_NOTICED = 0.02  # probability from which a concept is looked for in a caption


class ConceptNames:
    """Finds concepts in captions: by their phrase, or that of a kind of them, in singular or plural."""

    def __init__(self, classifier: ConceptClassifier) -> None:
        self._phrases = classifier.phrases
        self._of_classes: list[list[int]] = classifier.phrases_of.tolist()
        self._forms = cache(self._forms_of)

    def names(self, caption: str, phrase: int) -> bool:
        """Return whether a caption names a concept, given by its number."""
        return not self._forms(phrase).isdisjoint(self._runs(caption))

    def probabilities(self, captions: Sequence[str], probabilities: NDArray[np.float32]) -> list[float]:
        """Return, for each caption, the probability of the most probable concept that it names, 0 if it names none.

        `probabilities` (captions, phrases + 1) are those of the classifier.
        """
        named = [0.0] * len(captions)
        of_phrases = probabilities[:, : len(self._phrases)]
        rows, phrases = (of_phrases >= _NOTICED).nonzero()
        seen = zip(rows.tolist(), of_phrases[rows, phrases].tolist(), phrases.tolist(), strict=True)
        runs = [self._runs(caption) for caption in captions]
        for row, probability, phrase in seen:
            if probability > named[row] and not self._forms(phrase).isdisjoint(runs[row]):
                named[row] = probability
        return named

    def _runs(self, caption: str) -> set[str]:
        """Return what a caption may name: its runs of as many words as a phrase can have."""
        words = caption.split(" ")
        return {" ".join(words[i : i + n]) for n in self._lengths for i in range(len(words) + 1 - n)}

    @cached_property
    def _lengths(self) -> list[int]:
        """The numbers of words that phrases have."""
        return sorted({phrase.count(" ") + 1 for phrase in self._phrases})

    def _forms_of(self, phrase: int) -> frozenset[str]:
        return frozenset(form for kind in self._kinds[phrase] for form in forms(self._phrases[kind]))

    @cached_property
    def _kinds(self) -> list[list[int]]:
        """For each phrase, those of which every class is one of its classes; itself too."""
        classes: list[set[int]] = [set() for _ in self._phrases]
        for number, phrases in enumerate(self._of_classes):
            for phrase in phrases:
                if phrase < len(classes):
                    classes[phrase].add(number)
        return [[i for i, other in enumerate(classes) if other <= own] for own in classes]


def forms(phrase: str) -> list[str]:
    """Return a phrase in singular and in what may be its plural."""
    return [phrase, f"{phrase}s", f"{phrase}es", *([f"{phrase[:-1]}ies"] if phrase.endswith("y") else [])]
