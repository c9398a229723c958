"""A concept that a caption must name: the search that writes it, and when it is asked for."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from captioning.model.beam import beam_search
from captioning.model.concept_names import ConceptNames
from captioning.model.concepts import ConceptClassifier
from captioning.model.constrained import constrained_search
from captioning.model.demand import Demand
from captioning.model.vocabulary import END, PAD, START, Vocabulary
from captioning.values import DecodeOptions

WORDS = ["a", "dog", "dogs", "ice", "cream", "on", "the", "grass", "cat", "traffic", "light"]
VOCABULARY = Vocabulary.build([WORDS], 1)
OPTIONS = DecodeOptions(beam_size=3, max_words=6, min_words=1)
State = tuple[Tensor, ...]


def ids(text: str) -> list[int]:
    return VOCABULARY.encode(text.split())


def bigrams(seed: int, images: int) -> Tensor:
    """Return log-probabilities of the next word after each word, for each image: (images, V, V)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(3 * torch.randn(images, len(VOCABULARY), len(VOCABULARY), generator=generator), -1)


def searched(table: Tensor, phrases: Tensor | None, options: DecodeOptions = OPTIONS) -> list[tuple[str, float]]:
    """Return the best caption of each image and its score, of a decoder that knows the word before only."""

    def step(words: Tensor, state: State) -> tuple[Tensor, State]:
        return table[state[0][0, :, 0].long(), words], state

    state = (torch.arange(len(table)).float().view(1, -1, 1),)
    found = beam_search(step, state, options) if phrases is None else constrained_search(step, state, phrases, options)
    return [
        (" ".join(VOCABULARY.decode(w[0].tolist())), float(s[0]))
        for w, s in zip(found.words, found.scores, strict=True)
    ]


def phrase(*words: str, places: int = 0) -> Tensor:
    """Return a demanded phrase: each word with its alternatives, separated by /."""
    spelled = [ids(word.replace("/", " ")) for word in words]
    rows = [[PAD, PAD]] * (max(places, len(words)) - len(words)) + [row + [PAD] * (2 - len(row)) for row in spelled]
    return torch.tensor(rows)


@pytest.mark.parametrize("seed", range(12))
def test_every_caption_has_the_phrase_of_its_image(seed: int) -> None:
    phrases = torch.stack([phrase("ice", "cream"), phrase("cat", places=2), phrase("traffic", "light")])
    found = searched(bigrams(seed, 3), phrases)
    assert all(
        f" {wanted} " in f" {text} "
        for wanted, (text, _) in zip(("ice cream", "cat", "traffic light"), found, strict=True)
    )


@pytest.mark.parametrize("seed", range(12))
def test_a_caption_that_has_the_phrase_anyway_is_found_as_without_the_demand(seed: int) -> None:
    table, wide = bigrams(seed, 1), DecodeOptions(beam_size=40, max_words=6, min_words=1)
    text, score = searched(table, None, wide)[0]
    word = text.split()[-1]
    assert searched(table, phrase(word)[None], wide)[0] == (text, pytest.approx(score))


def test_the_best_caption_with_the_phrase_is_that_of_all_sentences() -> None:
    table, options = bigrams(5, 1), DecodeOptions(beam_size=60, max_words=3, min_words=1, length_power=0.0)
    known = range(len(VOCABULARY) - len(WORDS), len(VOCABULARY))
    sentences = [[a, *b] for a in known for b in [[], *([i] for i in known), *([i, j] for i in known for j in known)]]
    wanted = [s for s in sentences if ids("cat")[0] in s and all(x != y for x, y in pairwise(s))]

    def score(sentence: list[int]) -> float:
        return sum(float(table[0, x, y]) for x, y in zip([START, *sentence], [*sentence, END], strict=True))

    best = max(wanted, key=score)
    assert searched(table, phrase("cat")[None], options)[0] == (
        " ".join(VOCABULARY.decode(best)), pytest.approx(score(best), abs=1e-4),
    )  # fmt: skip


def test_either_alternative_of_a_word_will_do() -> None:
    table = bigrams(1, 1)
    table[:, :, ids("dogs")[0]] = 0.0
    assert "dogs" in searched(table, phrase("dog/dogs")[None])[0][0]


def test_a_phrase_that_does_not_fit_in_the_longest_caption_gives_no_caption() -> None:
    short = DecodeOptions(beam_size=2, max_words=1, min_words=1)
    assert searched(bigrams(1, 1), phrase("ice", "cream")[None], short)[0][1] == -math.inf


PHRASES = ["dog", "traffic light", "light", "ice cream"]


@pytest.fixture
def classifier() -> ConceptClassifier:
    classifier = ConceptClassifier(4, [["dog"], ["traffic light", "light"], ["light"], ["ice cream"]], VOCABULARY, 2)
    assert classifier.phrases == PHRASES
    return classifier


@pytest.fixture
def demand(classifier: ConceptClassifier) -> Demand:
    return Demand(classifier, VOCABULARY, 0.6)


def probabilities(**sure: float) -> Tensor:
    row = torch.zeros(1, len(PHRASES) + 1)
    for name, value in sure.items():
        row[0, PHRASES.index(name.replace("_", " "))] = value
    return row


def test_the_concept_that_the_classifier_is_sure_of_is_demanded_if_the_caption_lacks_it(demand: Demand) -> None:
    rows, phrases = demand.missing(probabilities(ice_cream=0.7), ["a dog"])
    assert rows == [0]
    assert phrases[0, :, 0].tolist() == ids("ice cream")


@pytest.mark.parametrize(
    ("caption", "sure"),
    [
        ("a dog on grass", {"dog": 0.9}),
        ("two dogs", {"dog": 0.9}),
        ("a cat", {"dog": 0.59}),
        ("a traffic light", {"light": 0.9}),  # a kind of it
    ],
)
def test_nothing_is_demanded_of_a_caption_that_names_it_or_of_an_unsure_classifier(
    demand: Demand, caption: str, sure: dict[str, float]
) -> None:
    assert demand.missing(probabilities(**sure), [caption])[0] == []


def test_a_kind_does_not_answer_for_its_name(demand: Demand) -> None:
    assert demand.missing(probabilities(traffic_light=0.9), ["a light"])[0] == [0]


def test_a_word_is_looked_for_in_singular_and_plural(demand: Demand) -> None:
    _, phrases = demand.missing(probabilities(dog=0.9), ["a cat"])
    assert phrases[0].tolist() == [ids("dog dogs")]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("two dogs on the grass", 0.6), ("a traffic light", 0.3), ("a light", 0.3), ("a cat", 0.0), ("a dog on ice", 0.6)],
)
def test_the_probability_of_what_a_caption_names_is_that_of_its_most_probable_concept(
    classifier: ConceptClassifier, caption: str, expected: float
) -> None:
    seen = probabilities(dog=0.6, traffic_light=0.25, light=0.3, ice_cream=0.01)
    found = ConceptNames(classifier).probabilities(["a cat", caption], torch.cat([seen, seen]).numpy())
    assert found == [0.0, pytest.approx(expected)]
