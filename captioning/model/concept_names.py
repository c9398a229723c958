"""Which concepts a caption names, in any of their forms."""

from collections.abc import Sequence
from functools import cached_property

from captioning.model.concepts import ConceptClassifier

_NOTICED = 0.02  # probability from which a concept is looked for in a caption


class ConceptNames:
    """Finds concepts in captions: by their phrase, or that of a kind of them, in singular or plural."""

    def __init__(self, classifier: ConceptClassifier) -> None:
        self._phrases = classifier.phrases
        self._of_classes: list[list[int]] = classifier.phrases_of.tolist()

    def names(self, caption: str, phrase: int) -> bool:
        """Return whether a caption names a concept, given by its number."""
        text = f" {caption} "
        return any(f" {form} " in text for kind in self._kinds[phrase] for form in forms(self._phrases[kind]))

    def probability(self, caption: str, probabilities: Sequence[float]) -> float:
        """Return the probability of the most probable concept that a caption names, 0 if it names none of them."""
        seen = ((p, i) for i, p in enumerate(probabilities[: len(self._phrases)]) if p >= _NOTICED)
        return next((p for p, i in sorted(seen, reverse=True) if self.names(caption, i)), 0.0)

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
