"""Confidence is calibrated: of captions with confidence 0.8, eight in ten are correct."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.calibration import WEIGHTS, Calibration, Curve, calibration_of
from captioning.errors import BundleError
from captioning.values import Caption
from training.evaluate.fit_calibration import (
    Graded,
    GradedCaptions,
    calibrate,
    cross_validated,
    cross_validated_captions,
    expected_calibration_error,
    grade,
    grade_words,
)


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
        n: Caption(f"a dog number{n} runs", sure, evidence=(-0.16,))
        if i % 2
        else Caption("a dog wrong runs", unsure, evidence=(-0.9,))
        for i, n in enumerate(references)
    }
    of_captions, of_words = grade(captions, references), grade_words(captions, references)
    assert len(set(of_words.image_index)) == 60
    assert of_captions.correct.mean() == 0.5
    assert of_words.correct.mean() == 7 / 8
    assert set(of_words.log_probability[of_words.correct == 0]) == {-4.0}
    calibration = calibration_of({"name": "x", "calibration": calibrate({"x": of_captions}, of_words)})
    assert calibration.word.at(-4.0) < 0.1 < 0.9 < calibration.word.at(-0.1)
    assert [word for word, _ in calibration.of_words("a dog wrong runs", unsure)] == ["a", "dog", "wrong", "runs"]
    assert calibration.of_caption((-0.16,)) > calibration.of_caption((-0.9,))


def kinds_of_images(seed: int) -> dict[str, GradedCaptions]:
    """Return captions of two kinds of images: of one the log-probability says nothing, and what is named says all."""
    rng = np.random.default_rng(seed)
    logp, named = rng.uniform(-3, 0, 1500), rng.uniform(0, 1, 1500)
    people = GradedCaptions(np.stack([logp, 0 * named], 1), (rng.uniform(size=1500) < np.exp(logp)).astype(float))
    things = GradedCaptions(np.stack([logp - 1, named], 1)[:300], (rng.uniform(size=300) < named[:300]).astype(float))
    return {"people": people, "things": things}


def test_evidence_makes_one_confidence_hold_for_several_kinds_of_images() -> None:
    kinds = kinds_of_images(1)
    confidences = cross_validated_captions(kinds)
    assert all(expected_calibration_error(confidences[name], kind.correct) < 0.1 for name, kind in kinds.items())
    without = {name: GradedCaptions(kind.evidence[:, :1], kind.correct) for name, kind in kinds.items()}
    blind = cross_validated_captions(without)
    assert expected_calibration_error(blind["things"], kinds["things"].correct) > 0.12


def test_the_calibration_of_a_bundle_weighs_the_evidence_and_reports_each_kind() -> None:
    kinds, words = kinds_of_images(1), Graded(np.array([-0.1]), np.array([1.0]), np.array([0]))
    found = calibrate(kinds, words, {"things": kinds_of_images(2)["things"]})
    assert len(found["weights"]) == WEIGHTS
    assert {name: errors["images"] for name, errors in found["kinds"].items()} == {"people": 1500, "things": 300}
    low, high = found["held_out"]["things"]["error_interval"]
    assert low <= found["held_out"]["things"]["error"] <= high < 0.25
    calibration = calibration_of({"name": "x", "calibration": found})
    assert calibration.of_caption((-2.0, 0.9)) > calibration.of_caption((-2.0, 0.1))
    (row, *_), (confidence, *_) = kinds["things"].evidence, cross_validated_captions(kinds)["things"]
    assert calibration.of_caption(tuple(row)) == pytest.approx(confidence, abs=0.1)


def test_a_caption_of_an_unlike_image_is_never_surer_than_such_captions_are_right() -> None:
    rng = np.random.default_rng(3)
    distance = rng.choice([0.5, 2.0], 1000)
    correct = (rng.uniform(size=1000) < np.where(distance > 1, 0.2, 0.8)).astype(float)
    rows = [(logp, 0.9, 0.9, far, 1.0, 0.5, 0.5) for logp, far in zip(rng.uniform(-3, 0, 1000), distance, strict=True)]
    found = calibrate(
        {"x": GradedCaptions(np.array(rows), correct)}, Graded(np.array([-0.1]), np.array([1.0]), np.array([0]))
    )
    calibration = calibration_of({"name": "x", "calibration": found})
    assert calibration.unlike == pytest.approx(0.2, abs=0.05)
    assert calibration.of_caption((0.0, 0.9, 0.9, 2.0, 1.0, 0.5, 0.5)) <= calibration.unlike
    assert calibration.of_caption((0.0, 0.9, 0.9, 0.5, 1.0, 0.5, 0.5)) > 0.6


@pytest.mark.parametrize("weights", [[1.0] * 6, ["x"], [float("inf")], None])
def test_a_bundle_with_invalid_weights_of_evidence_is_refused(weights: object) -> None:
    with pytest.raises(BundleError, match="is invalid"):
        calibration_of({"name": "x", "calibration": {"weights": weights}})


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
    assert Calibration().of_caption((0.0,)) == 1.0
    assert Calibration().of_caption((-2.0,)) == pytest.approx(np.exp(-2), abs=1e-4)


@pytest.mark.parametrize("curve", [[[0.0], [2.0]], [[-1.0, -2.0], [0.1, 0.2]], [[-1.0], []], "x", [["a"], [0.5]]])
def test_a_bundle_with_an_invalid_calibration_is_refused(curve: object) -> None:
    with pytest.raises(BundleError, match="is invalid"):
        calibration_of({"name": "x", "calibration": {"caption": curve}})
