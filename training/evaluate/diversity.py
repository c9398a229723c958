"""What a model is in the habit of saying, beside what the scores see: stock phrases, copies, guesses at gender."""

from collections import Counter
from collections.abc import Mapping, Sequence

from training.data.tokens import words_of

_STOCK = ("man in a", "shirt", "red", "in front of")
_MALE = {"man", "men", "boy", "boys", "guy", "guys", "male", "gentleman", "he", "his", "him"}
_FEMALE = {"woman", "women", "girl", "girls", "lady", "ladies", "female", "she", "her"}
_SMALL = {
    "a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "with", "is", "are", "his", "her", "its",
    "their", "it", "by", "for", "from", "as", "while", "into", "onto", "up",
}  # fmt: skip


def habits(
    said: Mapping[str, str], references: Mapping[str, Sequence[str]], taught: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Return shares (0 to 1) of captions, and counts, that tell how a model speaks.

    `words_used` and `distinct` are counts. `novel`: captions that occur nowhere in `taught`. `repeats`: captions
    with a content word twice. `stock ...`: captions with the phrase, divided by the share of people's with it.
    `... misgendered`: of the images that people call only male (female), those called only the opposite.
    """
    captions = {name: words_of(text) for name, text in said.items()}
    human = [words_of(text) for name in said for text in references[name]]
    known = {" ".join(words_of(text)) for texts in taught.values() for text in texts}
    count = len(captions)
    found: dict[str, float] = {
        "words_used": len({word for words in captions.values() for word in words}),
        "distinct": len({" ".join(words) for words in captions.values()}),
        "novel": sum(" ".join(words) not in known for words in captions.values()) / count,
        "repeats": sum(map(_repeats, captions.values())) / count,
        "repeats_human": sum(map(_repeats, human)) / len(human),
        "length": sum(map(len, captions.values())) / count,
    }
    for phrase in _STOCK:
        theirs = sum(_has(words, phrase) for words in human) / len(human)
        ours = sum(_has(words, phrase) for words in captions.values()) / count
        found[f"stock {phrase}"] = ours / theirs if theirs else 0.0
    for group, own, opposite in (("male", _MALE, _FEMALE), ("female", _FEMALE, _MALE)):
        images = [name for name in said if _only([words_of(t) for t in references[name]], own, opposite)]
        wrong = sum(_only([captions[name]], opposite, own) for name in images)
        found[f"{group} images"] = len(images)
        found[f"{group} misgendered"] = wrong / len(images) if images else 0.0
    return {name: round(value, 4) for name, value in found.items()}


def _repeats(words: Sequence[str]) -> bool:
    return any(n > 1 for word, n in Counter(words).items() if word not in _SMALL)


def _has(words: Sequence[str], phrase: str) -> bool:
    return f" {phrase} " in f" {' '.join(words)} "


def _only(sentences: Sequence[Sequence[str]], these: set[str], not_those: set[str]) -> bool:
    words = {word for sentence in sentences for word in sentence}
    return bool(words & these) and not words & not_those
