"""Confidence is calibrated: of captions with confidence 0.8, eight in ten are correct."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.calibration import Calibration, Curve, calibration_of
from captioning.errors import BundleError
from captioning.values import Caption
from training.evaluate.fit_calibration import Graded, calibrate, cross_validated, expected_calibration_error, grade


def test_calibration_corrects_an_overconfident_model() -> None:
    """Half of the model's confident answers are correct, and a tenth of its other answers."""
    rng = np.random.default_rng(1)
    logp = rng.uniform(-3, 0, 4000)
    correct = (rng.uniform(size=4000) < np.where(logp > -0.5, 0.5, 0.1)).astype(float)
    assert expected_calibration_error(np.exp(logp), correct) > 0.1
    confidence = cross_validated(Graded(logp, correct, np.arange(4000)))
    assert expected_calibration_error(confidence, correct) < 0.03
    assert confidence[logp > -0.3].mean() == pytest.approx(0.5, abs=0.04)
    assert confidence[logp < -1].mean() == pytest.approx(0.1, abs=0.03)


def test_the_curves_of_a_bundle_are_fitted_to_captions_and_words_that_people_used_too() -> None:
    references = {str(i): [f"a dog number{i} runs"] * 5 for i in range(60)}
    sure, unsure = (-0.1, -0.2, -0.3, -0.1, -0.1), (-0.1, -0.2, -4.0, -0.1, -0.1)
    captions = {
        n: Caption(f"a dog number{n} runs", sure) if i % 2 else Caption("a dog wrong runs", unsure)
        for i, n in enumerate(references)
    }
    of_captions, of_words = grade(captions, references)
    assert len(set(of_words.image_index)) == 60
    assert of_captions.correct.mean() == 0.5
    assert of_words.correct.mean() == 7 / 8
    assert set(of_words.log_probability[of_words.correct == 0]) == {-4.0}
    calibration = calibration_of({"name": "x", "calibration": calibrate(captions, references)})
    assert calibration.word.at(-4.0) < 0.1 < 0.9 < calibration.word.at(-0.1)
    assert [word for word, _ in calibration.of_words("a dog wrong runs", unsure)] == ["a", "dog", "wrong", "runs"]
    assert calibration.of_caption(sure) > calibration.of_caption(unsure)


@given(
    st.lists(st.tuples(st.floats(-20, 0), st.floats(0, 1)), min_size=1, max_size=20, unique_by=lambda p: p[0]),
    st.floats(-30, 5),
    st.floats(-30, 5),
)
def test_a_higher_probability_never_gives_a_lower_confidence(
    points: list[tuple[float, float]], one: float, other: float
) -> None:
    xs = tuple(sorted(x for x, _ in points))
    ys = tuple(sorted(y for _, y in points))
    curve = Curve(xs, ys)
    low, high = sorted((one, other))
    assert 0 <= curve.at(low) <= curve.at(high) + 1e-9 <= 1 + 1e-9


def test_without_a_calibration_the_confidence_is_the_probability() -> None:
    assert Calibration().of_caption((0.0, 0.0)) == 1.0
    assert Calibration().of_caption((-1.0, -3.0)) == pytest.approx(np.exp(-2), abs=1e-4)


@pytest.mark.parametrize("curve", [[[0.0], [2.0]], [[-1.0, -2.0], [0.1, 0.2]], [[-1.0], []], "x", [["a"], [0.5]]])
def test_a_bundle_with_an_invalid_calibration_is_refused(curve: object) -> None:
    with pytest.raises(BundleError, match="is invalid"):
        calibration_of({"name": "x", "calibration": {"caption": curve}})
