"""What the scores do not show: how varied a model's captions are, which phrases it overuses, and gender bias."""

from collections.abc import Mapping, Sequence

from captioning.word_groups import FEMALE, MALE, THINGS
from training.data.tokens import repeated, tokenize

_STOCK_PHRASES = ("man in a", "shirt", "red", "in front of")


def diversity_and_bias(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    training_captions: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """Return measures of a model's captions, given by image. Shares are from 0 to 1.

    words_used, distinct: number of different words, of different captions.
    novel: share of captions that are not among the training captions.
    repeats, repeats_human: share of captions, of references, with the same content word twice.
    length: mean words of a caption.
    stock <phrase>: share of captions with the phrase, divided by the share of references with it.
    male images: images whose references mention men only. male misgendered: share of those whose caption mentions
    women only. The same the other way round for female.
    """
    words = {name: tokenize(caption) for name, caption in captions.items()}
    human = [tokenize(text) for name in captions for text in references[name]]
    known = {" ".join(tokenize(text)) for texts in training_captions.values() for text in texts}
    count = len(words)
    found: dict[str, float] = {
        "words_used": len({word for caption in words.values() for word in caption}),
        "distinct": len({" ".join(caption) for caption in words.values()}),
        "novel": sum(" ".join(caption) not in known for caption in words.values()) / count,
        "repeats": sum(map(_says_twice, words.values())) / count,
        "repeats_human": sum(map(_says_twice, human)) / len(human),
        "length": sum(map(len, words.values())) / count,
    }
    for phrase in _STOCK_PHRASES:
        human_share = sum(_contains(caption, phrase) for caption in human) / len(human)
        model_share = sum(_contains(caption, phrase) for caption in words.values()) / count
        found[f"stock {phrase}"] = model_share / human_share if human_share else 0.0
    for group, own, opposite in (("male", MALE, FEMALE), ("female", FEMALE, MALE)):
        images = [name for name in captions if _only([tokenize(text) for text in references[name]], own, opposite)]
        wrong = sum(_only([words[name]], opposite, own) for name in images)
        found[f"{group} images"] = len(images)
        found[f"{group} misgendered"] = wrong / len(images) if images else 0.0
    return {name: round(value, 4) for name, value in found.items()}


def invention(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return how often captions name a person, or a dog, where no reference of the image does: shares from 0 to 1.

    They are shares of the images without a person (`images_without_people`) or without a dog.
    """
    found: dict[str, float] = {}
    for thing, words in THINGS.items():
        without = [n for n in captions if not any(words.intersection(tokenize(text)) for text in references[n])]
        wrong = sum(bool(words.intersection(tokenize(captions[name]))) for name in without)
        found[f"images_without_{thing}"] = len(without)
        found[f"invented_{thing}"] = round(wrong / len(without), 4) if without else 0.0
    return found


def _says_twice(words: Sequence[str]) -> bool:
    return repeated(words) > 0


def _contains(words: Sequence[str], phrase: str) -> bool:
    return f" {phrase} " in f" {' '.join(words)} "


def _only(captions: Sequence[Sequence[str]], these: set[str], not_those: set[str]) -> bool:
    words = {word for caption in captions for word in caption}
    return bool(words & these) and not words & not_those
