"""The vocabulary: words to ids and back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")


@dataclass(frozen=True)
class Vocabulary:
    """The words that a decoder knows. A word's id is its index. The first four entries are special tokens."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        if not all(isinstance(word, str) and word.split() == [word] for word in self.words):
            raise ValueError("each entry must be one word, a string without white space")
        if self.words[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"it must begin with {SPECIAL}, not {self.words[:4]}")
        if len(set(self.words)) != len(self.words):
            raise ValueError("each word must occur once")

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], min_count: int) -> "Vocabulary":
        """Keep words that occur at least `min_count` times, the most frequent first, ties in alphabetical order."""
        counts = Counter(word for caption in captions for word in caption)
        kept = sorted((word for word, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        return cls(SPECIAL + tuple(kept))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def encode(self, words: Iterable[str]) -> list[int]:
        """Return the ids of words; an unknown word becomes UNKNOWN."""
        return [self._ids.get(word, UNKNOWN) for word in words]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words up to the end token, without the other special tokens."""
        known = list(ids)
        if END in known:
            del known[known.index(END) :]
        return [self.words[i] for i in known if i > UNKNOWN]  # the last of the special tokens
