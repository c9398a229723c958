"""Scores equal those of the programs that papers use; diversity and bias are counted as documented."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning.errors import UsageError
from training.evaluate.diversity import diversity_and_bias, invention
from training.evaluate.metrics import cider_of_each, has_java, more_scores, score
from training.evaluate.naming import naming_rates, read_naming
from training.evaluate.score_sets import cider_interval, score_sets
from training.fit.cider_reward import CiderReward

WORDS = [chr(97 + i) * 2 for i in range(12)]


def random_captions(seed: int, images: int = 30) -> tuple[dict[str, str], dict[str, list[str]]]:
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(6, 12)))

    references = {str(i): [sentence() for _ in range(5)] for i in range(images)}
    return {n: " ".join([*rng.choice(r).split()[:8], sentence()]) for n, r in references.items()}, references


def test_bleu_equals_that_of_the_reference_scorer() -> None:
    from pycocoevalcap.bleu.bleu import Bleu

    captions, references = random_captions(1)
    expected, _ = Bleu(4).compute_score(references, {n: [s] for n, s in captions.items()}, verbose=0)
    assert [score(captions, references)[f"bleu{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected, abs=2e-4)
    assert score({n: r[0] for n, r in references.items()}, references)["bleu4"] == 1.0


def test_bleu_of_the_examples_in_papinenis_paper() -> None:
    """Papineni et al. 2002, section 2: 'the' seven times scores 2/7; and NLTK's published value for candidate 1."""
    the = score({"x": "the the the the the the the"}, {"x": ["the cat is on the mat", "there is a cat on the mat"]})
    assert the["bleu1"] == pytest.approx(2 / 7, abs=1e-4)
    guide = score(
        {"x": "It is a guide to action which ensures that the military always obeys the commands of the party"},
        {
            "x": [
                "It is a guide to action that ensures that the military will forever heed Party commands",
                "It is the guiding principle which guarantees the military forces always being under the command"
                " of the Party",
                "It is the practical guide for the army always to heed the directions of the party",
            ]
        },
    )
    assert guide["bleu4"] == pytest.approx(0.5046, abs=1e-3)


def test_cider_and_rouge_of_a_perfect_and_of_an_unrelated_caption() -> None:
    references = {"a": ["a b c d e"] * 5, "b": ["f g h i j"] * 5}
    perfect, unrelated = score({n: r[0] for n, r in references.items()}, references), {"a": "x y", "b": "z w"}
    assert (perfect["cider"], perfect["rouge_l"]) == (10.0, 1.0)
    assert (score(unrelated, references)["cider"], score(unrelated, references)["rouge_l"]) == (0.0, 0.0)


def test_rouge_l_of_a_partly_correct_caption() -> None:
    """Lin 2004: "a dog ... grass" is common to both; F with beta 1.2 of precision 3/4 and recall 3/5."""
    found = score({"x": "a dog eats grass"}, {"x": ["a dog sits on grass"]})["rouge_l"]
    assert found == pytest.approx(2.44 * 0.75 * 0.6 / (0.6 + 1.44 * 0.75), abs=1e-4)


def test_the_mean_cider_of_each_image_is_the_cider_of_all() -> None:
    captions, references = random_captions(2)
    each = cider_of_each(captions, references)
    assert set(each) == set(captions)
    assert sum(each.values()) / len(each) == pytest.approx(score(captions, references)["cider"], abs=1e-4)
    best = max(each, key=lambda n: each[n])
    swapped = captions | {best: "zz zz zz zz"}
    assert cider_of_each(swapped, references)[best] == 0


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_without_the_end_token_the_reward_equals_cider_d(seed: int) -> None:
    captions, references = random_captions(seed, 12)
    expected = cider_of_each(captions, references)
    reward = CiderReward({n: [r.split() for r in rs] for n, rs in references.items()}, end=False)
    for name, text in captions.items():
        assert reward.of(name, text.split()) == pytest.approx(expected[name], abs=1e-6)


def test_with_the_end_token_a_caption_that_stops_early_has_a_lower_reward() -> None:
    """SacreEOS, arXiv:2305.12254: ending on 'in a' is an error too."""
    whole = ["a", "dog", "runs", "in", "a", "park"]
    reward = CiderReward({"1": [whole] * 5, "2": [["two", "cats", "sit"]] * 5, "3": [["sky"]] * 5})
    assert reward.of("1", whole) == pytest.approx(10)
    assert reward.of("1", whole[:5]) < reward.of("1", whole[:5], ended=False) < reward.of("1", whole)


@pytest.mark.slow
@pytest.mark.processes
def test_meteor_is_computed_if_java_is_installed_and_is_1_for_identical_captions() -> None:
    references = {"a": ["a dog runs on the grass"] * 5, "b": ["two children play"] * 5}
    same, other = ({n: r[0] for n, r in references.items()}, {"a": "sky", "b": "sky"})
    found = [more_scores(captions, references).get("meteor") for captions in (same, other)]
    assert found == ([1.0, 0.0] if has_java() else [None, None])


def test_without_java_only_meteor_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "meteor" not in more_scores({"a": "a dog"}, {"a": ["a dog"]})


def test_when_java_fails_only_meteor_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert "meteor" not in more_scores({"a": "a dog"}, {"a": ["a dog"]})
    assert "left out METEOR: its Java program failed" in capsys.readouterr().err


def test_diversity_and_bias_are_counted_as_documented() -> None:
    references = {
        "1": ["a man in a shirt", "a man runs", "a boy"],
        "2": ["a woman sits", "a lady in red", "a girl"],
        "3": ["a dog", "a dog and a dog", "two dogs"],
    }
    captions = {"1": "a woman in a shirt", "2": "a woman sits", "3": "a dog and a dog in front of a dog"}
    found = diversity_and_bias(captions, references, {"9": ["A woman sits ."]})
    assert found["novel"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["repeats"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["repeats_human"] == pytest.approx(1 / 9, abs=1e-4)
    assert (found["male images"], found["male misgendered"]) == (1, 1.0)
    assert (found["female images"], found["female misgendered"]) == (1, 0.0)
    assert found["stock shirt"] == 3.0
    assert math.isclose(found["distinct"], 3)


def test_an_invention_is_a_person_or_a_dog_that_no_reference_of_the_image_names() -> None:
    captions = {"1": "a man on a street", "2": "two dogs run", "3": "a white church", "4": "a man runs"}
    references = {"1": ["A street .", "Cars"], "2": ["A dog .", "Snow"], "3": ["A church ."], "4": ["Two people run ."]}
    found = invention(captions, references)
    assert found == {
        "images_without_people": 3, "invented_people": pytest.approx(1 / 3, abs=1e-4),
        "images_without_dogs": 3, "invented_dogs": 0.0,
    }  # fmt: skip


def test_naming_counts_words_and_phrases_and_leaves_dogs_out_of_the_second_rate(tmp_path: Path) -> None:
    labels = {
        "cat.jpg": {"class": 281, "words": ["cat", "cats"]},
        "car.jpg": {"class": 817, "words": ["sports car", "car"]},
        "dog.jpg": {"class": 151, "words": ["dog"]},
        "none.jpg": {"class": 5, "words": ["shark"]},
    }
    (tmp_path / "words.json").write_text(json.dumps(labels))
    captions = {"cat.jpg": "A catalogue.", "car.jpg": "a red sports car drives", "dog.jpg": "a Dog runs"}
    found = naming_rates(captions, read_naming(tmp_path))
    assert (found["named"], found["without_dogs"], found["images"]) == (0.5, pytest.approx(1 / 3, abs=1e-4), 4)
    assert found["named_interval"][0] <= 0.5 <= found["named_interval"][1]
    assert found["length"] == pytest.approx(10 / 3, abs=0.1)
    (tmp_path / "words.json").write_text("[]")
    with pytest.raises(UsageError, match=r"cannot read the labels of .*words\.json"):
        read_naming(tmp_path)


def test_the_scores_of_data_sets_do_not_depend_on_each_other() -> None:
    references = {f"{part}{i}": [f"a {part} dog number {i} runs"] * 2 for part in ("red", "blue") for i in range(3)}
    captions = {
        "red": {f"red{i}": f"a red dog number {i} runs" for i in range(3)},
        "blue": {f"blue{i}": "a cat" for i in range(3)},
    }
    both = score_sets(captions, references)
    assert both["sets"] == {name: score_sets({name: texts}, references) for name, texts in captions.items()}
    assert both["cider"] == pytest.approx(both["sets"]["red"]["cider"] / 2, abs=1e-3)
    assert (both["images"], both["distinct"]) == (6, 4)
    low, high = cider_interval(captions["red"], references)
    assert low <= both["sets"]["red"]["cider"] <= high
