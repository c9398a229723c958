"""Words that a caption has only once.

"A man on a motorcycle on a motorcycle" says nothing more than "a man on a motorcycle", and neutral words for people
would give "a person and a person".
"""

import torch
from torch import Tensor

from captioning.model.vocabulary import Vocabulary
from captioning.word_groups import FUNCTION_WORDS

_COLOURS = {
    "white", "black", "brown", "red", "blue", "green", "yellow", "orange", "gray", "grey", "pink", "purple", "tan",
    "dark", "light", "blond", "blonde", "golden",
}  # fmt: skip
_OTHERS = {
    "one", "two", "three", "four", "five", "another", "other", "others", "that", "each", "side", "wearing", "holding"
}  # fmt: skip


def said_once(vocabulary: Vocabulary) -> Tensor:
    """Return which words of a vocabulary a caption has only once: (V,) true for all but short and common ones."""
    repeatable = FUNCTION_WORDS | _COLOURS | _OTHERS
    return torch.tensor([word not in repeatable for word in vocabulary.words])
