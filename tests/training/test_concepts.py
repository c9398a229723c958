"""Concepts of captions without images."""

import random

import pytest

from captioning.model.vocabulary import PAD, Vocabulary
from training.data.concepts import ConceptDrawer, class_words

WORDS = [
    "a", "an", "two", "dog", "dogs", "cat", "on", "traffic", "light", "lights", "train", "bus", "ice", "cream",
    "wolves", "berries", "strawberry",
]  # fmt: skip
VOCABULARY = Vocabulary.build([WORDS], 1)
CLASSES = [("dog",), ("cat",), ("traffic light", "light"), ("ice cream",), ("strawberry",), ("axolotl", "newt")]


@pytest.fixture
def drawer() -> ConceptDrawer:
    return ConceptDrawer(CLASSES, VOCABULARY, 3)


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("two dogs on a train", ["dog"]),
        ("a dog and a cat and a dog", ["dog", "cat", "dog"]),
        ("a bus at traffic lights", ["traffic light"]),
        ("a light", ["light"]),
        ("strawberries on ice cream", ["strawberry", "ice cream"]),
        ("a man", []),
    ],
)
def test_a_captions_own_concepts_are_found_in_singular_and_plural(
    drawer: ConceptDrawer, caption: str, phrases: list[str]
) -> None:
    assert [phrase for _, _, phrase in drawer.named_in(caption.split())] == phrases


def test_a_phrase_that_the_vocabulary_lacks_is_never_drawn(drawer: ConceptDrawer) -> None:
    assert len(drawer.classes) == len(CLASSES) - 1


def test_most_captions_get_their_own_concepts_some_are_missed_and_others_are_wrong(drawer: ConceptDrawer) -> None:
    texts, concepts = drawer.draw([["a", "dog"]] * 300, random.Random(1))
    assert concepts.words.shape == (300, 3, 2)
    assert concepts.weights.shape == (300, 3)
    named = [VOCABULARY.encode(text[1:]) for text in texts]
    rows = [[[i for i in concept if i != PAD] for concept in row] for row in concepts.words.tolist()]
    first = sum(row[0] == own for row, own in zip(rows, named, strict=True)) / 300
    assert 0.6 < first < 0.95
    assert all(0 <= weight <= 1 for row in concepts.weights.tolist() for weight in row)
    assert all(row == sorted(row, reverse=True) for row in concepts.weights.tolist())


def test_the_name_of_a_class_comes_with_its_kind(drawer: ConceptDrawer) -> None:
    seen = drawer.seen(["traffic light"], random.Random(1))
    assert seen["light"] >= seen["traffic light"] > 0


def test_some_captions_name_another_thing_as_their_concepts_do(drawer: ConceptDrawer) -> None:
    texts, _ = drawer.draw([["a", "dog", "on", "a", "train"]] * 300, random.Random(1))
    swapped = {" ".join(text) for text in texts}
    assert {"a dog on a train", "a traffic light on a train", "an ice cream on a train"} <= swapped
    assert 30 < sum(text[1] != "dog" for text in texts) < 120


def test_all_captions_of_an_image_are_swapped_alike(drawer: ConceptDrawer) -> None:
    captions = [["a", "dog"], ["two", "dogs", "on", "a", "train"], ["a", "bus"]]
    drawn = (drawer.swap(captions, random.Random(seed)) for seed in range(100))
    found = next(swapped for swapped, new in drawn if new == "traffic light")
    assert [" ".join(words) for words in found] == ["a traffic light", "two traffic lights on a train", "a bus"]


def test_captions_without_a_common_thing_are_not_swapped(drawer: ConceptDrawer) -> None:
    captions = [["a", "dog"], ["a", "bus"], ["a", "train"]]
    assert drawer.swap(captions, random.Random(1)) == (captions, None)


def test_the_draw_depends_on_the_generator_only(drawer: ConceptDrawer) -> None:
    one, same, other = (drawer.draw([["a", "dog"]] * 5, random.Random(seed))[1].weights.tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_the_table_has_plain_words_for_each_class() -> None:
    table = class_words()
    assert len(table) == 1000
    assert [table[i] for i in (281, 207, 963, 967, 817, 920)] == [
        ("cat",), ("golden retriever", "dog"), ("pizza",), ("espresso", "coffee"), ("sports car", "car"),
        ("traffic light",),
    ]  # fmt: skip
    assert all(phrase == phrase.strip().lower() and phrase for phrases in table for phrase in phrases)
