"""A gender that the model is not sure of becomes a neutral word; one that it is sure of stays."""

import dataclasses

import pytest
import torch

from captioning.bundles import find_bundles
from captioning.errors import BundleError
from captioning.model.gender import NeutralWords, neutral_words
from captioning.model.vocabulary import SPECIAL, Vocabulary

WORDS = Vocabulary((*SPECIAL, "man", "woman", "person", "dog", "guy", "boy", "girl"))


def changed(share: float, **probabilities: float) -> dict[str, float]:
    row = torch.full((1, len(WORDS)), 1e-9)
    for word, probability in probabilities.items():
        row[0, WORDS.encode([word])[0]] = probability
    found = NeutralWords.of(WORDS, share).apply(row.log()).exp()[0]
    return {word: round(float(found[WORDS.encode([word])[0]]), 4) for word in probabilities}


def test_an_unsure_gender_gives_all_its_probability_to_the_neutral_word() -> None:
    found = changed(0.8, man=0.3, guy=0.1, woman=0.2, person=0.1, dog=0.3)
    assert found == {"man": 0.0, "guy": 0.0, "woman": 0.0, "person": 0.7, "dog": 0.3}


def test_a_sure_gender_stays() -> None:
    probabilities = {"man": 0.5, "guy": 0.1, "woman": 0.1, "person": 0.1, "dog": 0.2}
    assert changed(0.8, **probabilities) == probabilities


def test_a_share_of_one_half_changes_nothing() -> None:
    probabilities = {"man": 0.31, "woman": 0.3, "person": 0.09, "dog": 0.3}
    assert changed(0.5, **probabilities) == probabilities


def test_a_group_without_its_neutral_word_stays() -> None:
    assert changed(0.9, boy=0.5, girl=0.5) == {"boy": 0.5, "girl": 0.5}


@pytest.mark.parametrize("share", [0.4, 1.1, "0.8", True, None])
def test_a_bundle_says_the_share_or_has_no_neutral_words(share: object) -> None:
    bundle = find_bundles()["lstm"]
    described = dataclasses.replace(bundle, description=bundle.description | {"neutral_gender": share})
    if share is None:
        assert neutral_words(described, WORDS) is None
        return
    with pytest.raises(BundleError, match=r"neutral_gender: must be a share from 0\.5 to 1, not"):
        neutral_words(described, WORDS)
