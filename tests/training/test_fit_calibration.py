"""Confidence is calibrated: what is said to be right eight times in ten is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.calibration import Calibration, Curve, calibration_of
from captioning.errors import BundleError
from captioning.values import Caption
from training.evaluate.fit_calibration import calibrate, expected_error, folded, judged


def test_an_overconfident_model_is_brought_down_to_earth() -> None:
    """A model that is right in half of what it is sure of, and in a tenth of what it doubts."""
    chance = np.random.default_rng(1)
    logp = chance.uniform(-3, 0, 4000)
    right = (chance.uniform(size=4000) < np.where(logp > -0.5, 0.5, 0.1)).astype(float)
    assert expected_error(np.exp(logp), right) > 0.1
    sure = folded(logp, right)
    assert expected_error(sure, right) < 0.03
    assert sure[logp > -0.3].mean() == pytest.approx(0.5, abs=0.04)
    assert sure[logp < -1].mean() == pytest.approx(0.1, abs=0.03)


def test_a_bundles_curves_come_from_captions_and_words_that_people_used_too() -> None:
    references = {str(i): [f"a dog number{i} runs"] * 5 for i in range(60)}
    sure, unsure = (-0.1, -0.2, -0.3, -0.1, -0.1), (-0.1, -0.2, -4.0, -0.1, -0.1)
    said = {
        n: Caption(f"a dog number{n} runs", sure) if i % 2 else Caption("a dog wrong runs", unsure)
        for i, n in enumerate(references)
    }
    (_, good, _), (word_x, right, whose) = judged(said, references)
    assert len(set(whose)) == 60
    assert good.mean() == 0.5
    assert right.mean() == 7 / 8
    assert set(word_x[right == 0]) == {-4.0}
    found = calibrate(said, references)
    calibration = calibration_of({"name": "x", "calibration": found})
    assert calibration.word.at(-4.0) < 0.1 < 0.9 < calibration.word.at(-0.1)
    assert [word for word, _ in calibration.of_words("a dog wrong runs", unsure)] == ["a", "dog", "wrong", "runs"]
    assert calibration.of_caption(sure) > calibration.of_caption(unsure)


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(0, 1)), min_size=1, max_size=20, unique_by=lambda p: p[0]), st.floats(-30, 5), st.floats(-30, 5))  # fmt: skip  # noqa: E501
def test_more_probable_is_never_less_confident(points: list[tuple[float, float]], one: float, other: float) -> None:
    xs = tuple(sorted(x for x, _ in points))
    ys = tuple(sorted(y for _, y in points))
    curve = Curve(xs, ys)
    low, high = sorted((one, other))
    assert 0 <= curve.at(low) <= curve.at(high) + 1e-9 <= 1 + 1e-9


def test_without_a_calibration_the_model_is_taken_at_its_word() -> None:
    assert Calibration().of_caption((0.0, 0.0)) == 1.0
    assert Calibration().of_caption((-1.0, -3.0)) == pytest.approx(np.exp(-2), abs=1e-4)


@pytest.mark.parametrize("curve", [[[0.0], [2.0]], [[-1.0, -2.0], [0.1, 0.2]], [[-1.0], []], "x", [["a"], [0.5]]])
def test_a_bundle_with_a_senseless_calibration_is_refused(curve: object) -> None:
    with pytest.raises(BundleError, match="makes no sense"):
        calibration_of({"name": "x", "calibration": {"caption": curve}})
