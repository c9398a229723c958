"""The one concept that a caption must name, where the classifier is sure of it."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from captioning.bundles import Bundle
from captioning.model.concept_names import ConceptNames, forms
from captioning.model.concepts import ConceptClassifier
from captioning.model.vocabulary import PAD, Vocabulary

_FORMS = 2  # of a phrase's last word: singular and plural


class Demand:
    """Says which images must have a concept named, and which captions do not name it yet."""

    def __init__(self, classifier: ConceptClassifier, vocabulary: Vocabulary, probability: float) -> None:
        """`probability` is that from which a concept is demanded."""
        self.probability = probability
        self.concepts = ConceptNames(classifier)
        self._phrases, self._vocabulary = classifier.phrases, vocabulary

    def missing(self, probabilities: Tensor, captions: Sequence[str]) -> tuple[list[int], Tensor]:
        """Return the images with captions that lack the demanded concept, and its words for `constrained_search`.

        `probabilities` (B, phrases + 1) are those of the classifier.
        """
        highest, phrases = (found.tolist() for found in probabilities.max(1))
        rows = [
            row
            for row, (sure, phrase, caption) in enumerate(zip(highest, phrases, captions, strict=True))
            if sure >= self.probability and not self.concepts.names(caption, phrase)
        ]
        words = self._words[[phrases[row] for row in rows]]
        used = (words != PAD).any(-1).any(0)  # the places before the longest phrase would only cost time
        return rows, words[:, used]

    @cached_property
    def _words(self) -> Tensor:
        """(phrases, L, forms) ids of the words of each phrase, at the end of the L places."""
        known = set(self._vocabulary.words)
        spelled = [phrase.split() for phrase in self._phrases]
        table = torch.full((len(spelled), max(map(len, spelled)), _FORMS), PAD)
        for i, words in enumerate(spelled):
            table[i, -len(words) :, 0] = torch.tensor(self._vocabulary.encode(words))
            plurals = [form for form in forms(words[-1])[1:] if form in known][:1]
            table[i, -1, 1 : 1 + len(plurals)] = torch.tensor(self._vocabulary.encode(plurals))
        return table


def demand_of(bundle: Bundle, classifier: ConceptClassifier | None, vocabulary: Vocabulary) -> Demand | None:
    """Return what a bundle's option `demand` says; None without it. Raises BundleError for a wrong value."""
    share = bundle.probability("demand")
    return None if share is None or classifier is None else Demand(classifier, vocabulary, share)
