"""Concepts: what the classifier sees, in words, and what decoders make of them."""

import pytest
import torch
from torch import Tensor

from captioning.model.concepts import ConceptClassifier, Concepts
from captioning.model.decoder import KINDS, CaptionDecoder, DecoderConfig, make_decoder
from captioning.model.vocabulary import PAD, Vocabulary
from captioning.values import Cell

VOCABULARY = Vocabulary.build([["cat", "dog", "ice", "cream", "a", "on"]], 1)
PHRASES = [["tabby", "cat"], ["cat"], ["dog"], ["ice cream"], ["axolotl"]]
CELLS: list[Cell] = ["lstm", "gru"]
each = pytest.mark.parametrize(("kind", "cell"), [(kind, cell) for kind in KINDS for cell in CELLS])


def ids(*words: str) -> list[int]:
    return VOCABULARY.encode(words)


def seen(probabilities: list[float], count: int = 3) -> Concepts:
    """Return what a classifier sees that gives its classes these probabilities."""
    classifier = ConceptClassifier(4, PHRASES, VOCABULARY, count)
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.tensor(probabilities).log())
    return Concepts(*classifier(torch.rand(1, 9, 4)))


def words_of(concepts: Concepts) -> list[list[int]]:
    return [[i for i in row if i != PAD] for row in concepts.words[0].tolist()]


def test_classes_with_the_same_phrase_are_one_concept_with_the_sum_of_their_probabilities() -> None:
    found = seen([0.3, 0.25, 0.4, 0.05, 0.0])
    assert words_of(found) == [ids("cat"), ids("dog"), ids("ice", "cream")]  # "tabby" is not in the vocabulary
    assert found.weights[0].tolist() == pytest.approx([0.55, 0.4, 0.05], abs=1e-4)


def test_the_name_and_the_kind_of_a_class_are_both_concepts() -> None:
    vocabulary = Vocabulary.build([["tabby", "cat", "dog"]], 1)
    classifier = ConceptClassifier(4, [["tabby", "cat"], ["cat"], ["dog"]], vocabulary, 3)
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.tensor([0.5, 0.2, 0.3]).log())
    found = Concepts(*classifier(torch.rand(1, 9, 4)))
    assert words_of(found) == [vocabulary.encode([word]) for word in ("cat", "tabby", "dog")]
    assert found.weights[0].tolist() == pytest.approx([0.7, 0.5, 0.3], abs=1e-4)


def test_a_class_without_words_in_the_vocabulary_is_no_concept() -> None:
    found = seen([0.01, 0.0, 0.01, 0.01, 0.97], count=4)
    assert max(found.weights[0].tolist()) == pytest.approx(0.01, abs=1e-4)
    assert found.weights[0, -1] == 0


def decoder_of(kind: str, cell: Cell) -> CaptionDecoder:
    torch.manual_seed(1)
    shape = DecoderConfig(
        cell, len(VOCABULARY), kind, feature_size=24, memory_size=16, hidden_size=20, embedding_size=12, heads=4,
        concepts=2,
    )  # fmt: skip
    return make_decoder(shape).eval()


def one(word: str, weight: float, images: int = 2) -> Concepts:
    words = torch.tensor([[ids(word), [PAD]]]).expand(images, -1, -1)
    return Concepts(words, torch.tensor([[weight, 0.0]]).expand(images, -1))


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 9, 24), torch.randint(4, len(VOCABULARY), (4, 5))


@each
def test_step_by_step_equals_teacher_forcing_with_concepts(kind: str, cell: Cell) -> None:
    decoder, (features, words), concepts = decoder_of(kind, cell), inputs(), one("dog", 0.8)
    at_once = decoder(features, words, concepts).log_softmax(-1)
    memory, state = decoder.start(features, concepts)
    state = tuple(s.repeat_interleave(2, 1) for s in state)
    for t in range(words.size(1)):
        step, state = decoder.step(words[:, t], state, memory)
        assert torch.allclose(step, at_once[:, t], atol=1e-5)


@each
def test_a_concept_makes_its_word_more_probable(kind: str, cell: Cell) -> None:
    decoder, (features, words) = decoder_of(kind, cell), inputs()
    dog = ids("dog")[0]
    probable, improbable = (decoder(features, words, one("dog", weight))[..., dog].mean() for weight in (0.9, 1e-4))
    assert probable > improbable


@each
def test_concepts_of_no_weight_change_nothing(kind: str, cell: Cell) -> None:
    decoder, (features, words) = decoder_of(kind, cell), inputs()
    assert torch.equal(decoder(features, words, one("dog", 0.0)), decoder(features, words, one("cat", 0.0)))


def test_some_concepts_are_left_out_in_training_only() -> None:
    decoder, (features, words), concepts = decoder_of("attention", "gru"), inputs(), one("dog", 0.9, 2)
    decoder.train()
    decoder.scale_dropout(0)
    assert torch.equal(decoder(features, words, concepts), decoder(features, words, concepts))
    decoder = decoder_of("attention", "gru")
    with torch.no_grad():
        drawn = {float(decoder.train()._drop_concepts(concepts.weights).sum()) for _ in range(60)}
    assert len(drawn) > 1


def test_a_decoder_that_reads_concepts_asks_for_them() -> None:
    with pytest.raises(ValueError, match="this decoder reads concepts"):
        decoder_of("attention", "lstm").start(torch.randn(2, 9, 24))
