"""Texts and log-probabilities of what a search found, a whole batch at once."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from captioning.model.beam import BeamResult
from captioning.model.hypotheses import hypotheses_of
from captioning.model.vocabulary import END, PAD, Vocabulary

VOCABULARY = Vocabulary.build([["a", "dog", "runs"]], 1)
IMPOSSIBLE = float("-inf")


def found(words: list[list[int]], log_probabilities: list[list[float]], scores: list[float]) -> BeamResult:
    """Return what was found for one image."""
    return BeamResult(torch.tensor([words]), torch.tensor([log_probabilities]), torch.tensor([scores]))


def test_a_hypothesis_ends_with_its_end_and_impossible_ones_are_left_out() -> None:
    a, dog, runs = VOCABULARY.encode(["a", "dog", "runs"])
    words = [[a, dog, runs, END], [dog, END, PAD, PAD], [PAD, PAD, PAD, PAD]]
    logps = [[-0.1, -0.2, -0.3, -0.4], [-1.0, -2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    ((best, second),) = hypotheses_of(found(words, logps, [-1.0, -3.0, IMPOSSIBLE]), VOCABULARY)
    assert best == ("a dog runs", (-0.1, -0.2, -0.3, -0.4))
    assert second == ("dog", (-1.0, -2.0))


def test_an_image_for_which_nothing_is_possible_has_one_empty_hypothesis() -> None:
    ((only,),) = hypotheses_of(found([[PAD, PAD]] * 2, [[0.0, 0.0]] * 2, [IMPOSSIBLE] * 2), VOCABULARY)
    assert only.text == ""


@given(arrays(np.float32, 7, elements=st.floats(-90, 0, width=32)))
def test_log_probabilities_are_rounded_as_python_rounds_them(numbers: np.ndarray) -> None:  # type: ignore[type-arg]
    a = VOCABULARY.encode(["a"])[0]
    ((best,),) = hypotheses_of(found([[a] * 7], [numbers.tolist()], [-1.0]), VOCABULARY)
    assert best.log_probabilities == tuple(round(float(number), 4) for number in numbers)
