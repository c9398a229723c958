"""What a model knows of an image besides its caption: whether it is unlike the training images, or shows people."""

import pytest
import torch
from torch import Tensor

from captioning.calibration import is_unlike
from captioning.model.likeness import Likeness
from captioning.model.presence import AbsentWords, Presence, least_present
from captioning.model.vocabulary import Vocabulary
from captioning.word_groups import THINGS


def grids(means: Tensor) -> Tensor:
    """Return grids of nine cells with these mean features (B, F)."""
    noise = torch.randn(len(means), 9, means.size(1), generator=torch.Generator().manual_seed(2))
    return means.unsqueeze(1) + noise - noise.mean(1, keepdim=True)


@pytest.fixture
def plane() -> Tensor:
    """Features of 200 images that differ in three directions only."""
    generator = torch.Generator().manual_seed(1)
    return 5 + torch.randn(200, 3, generator=generator) @ torch.randn(3, 16, generator=generator)


def test_an_image_is_the_farther_the_less_the_training_images_explain_it(plane: Tensor) -> None:
    likeness = Likeness.fit(plane, 3)
    away = torch.linalg.svd(plane - plane.mean(0)).Vh[10]  # a direction in which no training image differs
    distances = likeness(grids(torch.stack([plane[0], plane[1] + plane[2] - plane.mean(0), plane[0] + 2 * away])))
    assert distances[:2].tolist() == pytest.approx([0, 0], abs=1e-3)
    assert distances[2].item() == pytest.approx(2, abs=1e-3)
    likeness.limit.fill_(4.0)
    assert likeness(grids((plane[0] + 2 * away)[None])).item() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("distance", "surest", "unlike"), [(0.9, 0.1, False), (1.1, 0.1, True), (1.1, 0.9, False), (1.8, 0.9, True)]
)
def test_a_far_image_is_unlike_unless_the_classifier_knows_it_and_a_very_far_one_in_any_case(
    distance: float, surest: float, unlike: bool
) -> None:
    assert is_unlike(distance, surest) is unlike


def test_presence_is_the_probability_of_each_thing_by_the_mean_features() -> None:
    presence = Presence(4)
    with torch.no_grad():
        presence.linear.weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, -2.0, 0, 0]]))
        presence.linear.bias.zero_()
    found = presence(grids(torch.tensor([[1.0, 1, 0, 0], [-1.0, 0, 0, 0]])))
    expected = torch.tensor([[2.0, -2.0], [-2.0, 0.0]]).sigmoid()
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.shape == (2, len(THINGS))


def test_words_for_what_is_absent_are_excluded_and_no_others() -> None:
    vocabulary = Vocabulary.build([["a", "man", "people", "dog", "dogs", "cat"]], 1)
    absent = AbsentWords(vocabulary, 0.2)
    excluded = absent.of(torch.tensor([[0.1, 0.9], [0.2, 0.19], [0.9, 0.9]]))
    words = [set(vocabulary.decode(row)) for row in excluded.tolist()]
    assert words == [{"man", "people"}, {"dog", "dogs"}, set()]


@pytest.mark.parametrize(
    ("caption", "expected"), [("a man and a dog", 0.3), ("a man", 0.8), ("two dogs", 0.3), ("a manhole and a cat", 1.0)]
)
def test_what_a_caption_names_is_as_probable_as_the_least_probable_of_it(caption: str, expected: float) -> None:
    assert least_present(caption, [0.8, 0.3]) == expected
