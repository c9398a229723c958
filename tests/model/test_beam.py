"""Beam search on tables of probabilities, where brute force finds the right answer."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captioning.model.beam import Step, beam_search
from captioning.model.repeats import said_once
from captioning.model.vocabulary import END, PAD, START, UNKNOWN, Vocabulary
from captioning.values import DecodeOptions

WORDS = 7  # four special tokens and three words
State = tuple[Tensor, ...]


def table_step(table: Tensor) -> Step:
    """Return a step with scores that depend on the image and the last two words: table (B, V, V, V)."""

    def step(words: Tensor, state: State) -> tuple[Tensor, State]:
        before, image = state
        scores = table[image[0, :, 0].long(), before[0, :, 0].long(), words]
        return scores, (words.float().view(1, -1, 1), image)

    return step


def start(batch: int) -> State:
    return torch.full((1, batch, 1), float(START)), torch.arange(batch).float().view(1, batch, 1)


def brute_force(table: Tensor, options: DecodeOptions) -> list[tuple[float, list[int]]]:
    """Score every caption that the rules allow, the best first: table (V, V, V)."""
    found = []
    for length in range(options.min_words, options.max_words + 1):
        for words in itertools.product(range(4, WORDS), repeat=length):
            triples = list(zip(words, words[1:], words[2:], strict=False))
            if any(a == b for a, b in itertools.pairwise(words)) or len(set(triples)) < len(triples):
                continue
            tokens = [START, START, *words, END]
            total = sum(float(table[a, b, c]) for a, b, c in zip(tokens, tokens[1:], tokens[2:], strict=False))
            found.append((total / (length + 1) ** options.length_power, list(words)))
    return sorted(found, reverse=True)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), words=st.integers(1, 4))
def test_beam_search_finds_what_brute_force_finds(seed: int, words: int) -> None:
    torch.manual_seed(seed)
    table = torch.randn(2, WORDS, WORDS, WORDS).log_softmax(-1)
    options = DecodeOptions(beam_size=200, max_words=words, min_words=1)
    found = beam_search(table_step(table), start(2), options)  # enough beams to keep every hypothesis
    for image in range(2):
        expected = brute_force(table[image], options)[:5]
        for k, (score, caption) in enumerate(expected):
            assert float(found.scores[image, k]) == pytest.approx(score, abs=1e-4)
            ids = [w for w in found.words[image, k].tolist() if w not in (END, PAD)]
            assert ids == caption


def test_one_beam_takes_the_best_word_at_every_step() -> None:
    torch.manual_seed(0)
    table = torch.randn(3, WORDS, WORDS, WORDS).log_softmax(-1)
    options = DecodeOptions(beam_size=1, max_words=5, min_words=0)
    found = beam_search(table_step(table), start(3), options)
    for image in range(3):
        before, last, caption = START, START, []
        while len(caption) < 5:
            scores = table[image, before, last].clone()
            scores[[PAD, START, UNKNOWN, last]] = float("-inf")
            for a, b, c in zip(caption, caption[1:], caption[2:], strict=False):
                if (a, b) == (before, last):
                    scores[c] = float("-inf")
            word = int(scores.argmax())
            if word == END:
                break
            caption.append(word)
            before, last = last, word
        assert [w for w in found.words[image, 0].tolist() if w not in (END, PAD)] == caption


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), beams=st.integers(1, 3), min_words=st.integers(0, 4), extra=st.integers(0, 6))
def test_every_hypothesis_follows_the_rules(seed: int, beams: int, min_words: int, extra: int) -> None:
    torch.manual_seed(seed)
    options = DecodeOptions(beam_size=beams, max_words=min_words + extra, min_words=min_words)
    found = beam_search(table_step(torch.randn(4, 30, 30, 30).log_softmax(-1)), start(4), options)
    for words, logps, score in zip(
        found.words.flatten(0, 1).tolist(),
        found.log_probabilities.flatten(0, 1).tolist(),
        found.scores.flatten().tolist(),
        strict=True,
    ):
        if score == float("-inf"):
            continue
        end = words.index(END)
        caption, after = words[:end], words[end + 1 :]
        assert min_words <= len(caption) <= options.max_words
        assert set(after) <= {PAD}
        assert min(caption, default=4) >= 4
        assert all(a != b for a, b in itertools.pairwise(caption))
        triples = list(zip(caption, caption[1:], caption[2:], strict=False))
        assert len(triples) == len(set(triples))
        assert sum(logps) / (end + 1) ** options.length_power == pytest.approx(score, abs=1e-4)


def test_the_best_hypothesis_comes_first() -> None:
    torch.manual_seed(5)
    found = beam_search(table_step(torch.randn(6, 40, 40, 40).log_softmax(-1)), start(6), DecodeOptions(beam_size=3))
    assert (found.scores.diff(dim=1) <= 0).all()


def test_a_caption_that_has_used_all_words_ends() -> None:
    vocabulary = Vocabulary.build([["cat", "sat"]], 1)
    table = torch.zeros(1, len(vocabulary), len(vocabulary)).log_softmax(-1)
    options = DecodeOptions(beam_size=2, max_words=8, min_words=4)
    state = (torch.zeros(1, 1, 1),)
    found = beam_search(lambda words, state: (table[0, words], state), state, options, said_once(vocabulary))
    assert sorted(vocabulary.decode(found.words[0, 0].tolist())) == ["cat", "sat"]
    assert found.scores[0, 0] > float("-inf")


def test_a_word_of_those_said_once_does_not_come_again() -> None:
    vocabulary = Vocabulary.build([["a", "man", "on", "motorcycle", "red"]], 1)
    once = said_once(vocabulary)
    assert [word for word in vocabulary.words[4:] if not once[vocabulary.encode([word])[0]]] == ["a", "on", "red"]
    table = torch.full((1, len(vocabulary), len(vocabulary)), -20.0)
    a, man, on, motorcycle, red = vocabulary.encode(["a", "man", "on", "motorcycle", "red"])
    for word, following in ((START, man), (man, on), (on, a), (a, motorcycle), (motorcycle, on)):
        table[0, word, following] = -0.1
    table[0, a, red] = table[0, red, END] = -1.0

    def step(words: Tensor, state: State) -> tuple[Tensor, State]:
        return table[0, words], state

    options = DecodeOptions(beam_size=1, max_words=8, min_words=1)
    found = beam_search(step, (torch.zeros(1, 1, 1),), options, once)
    assert vocabulary.decode(found.words[0, 0].tolist()) == ["man", "on", "a", "motorcycle", "on", "a", "red"]
