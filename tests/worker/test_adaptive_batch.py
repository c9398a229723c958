"""A device without memory for a batch gets half as many images at once; a failed device is not taken for a bug.

What it computes wrongly for one image is that image's failure.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from captioning.bundles import find_bundles
from captioning.errors import DeviceFailed, DeviceOutOfMemory
from captioning.model.captioner import Captioner
from captioning.model.descriptions import preprocessing_of
from captioning.model.load_bundle import load_classifier, load_decoder
from captioning.values import DecodeOptions
from worker.adaptive_batch import GROW_AFTER, AdaptiveBatch

GREEDY = DecodeOptions(beam_size=1)
BLANK = np.zeros((224, 224, 3), np.uint8)


class Device:
    """An encoder with memory for `capacity` images. It fails as torch does, first with the errors in `errors`."""

    def __init__(self, capacity: int = 1000, errors: Sequence[Exception] = ()) -> None:
        self.capacity = capacity
        self.errors = list(errors)
        self.batches: list[int] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        if self.errors:
            raise self.errors.pop(0)
        if len(pixels) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.zeros(len(pixels), 49, 2048)


@pytest.fixture(scope="module")
def model() -> Captioner:
    bundle = find_bundles()["gru"]
    decoder, vocabulary = load_decoder(bundle)
    classifier = load_classifier(bundle, decoder, vocabulary)
    return Captioner(Device(), decoder, vocabulary, preprocessing_of(bundle), classifier=classifier)


def with_encoder(device: Device, model: Captioner) -> Captioner:
    return replace(model, encode=device)


def test_every_image_is_captioned_when_the_device_has_memory_for_few(model: Captioner) -> None:
    device = Device(capacity=3)
    adaptive_batch = AdaptiveBatch()
    assert len(adaptive_batch.caption(with_encoder(device, model), [BLANK] * 10, GREEDY)) == 10
    assert device.batches == [10, 5, 2, 2, 2, 2, 2]
    assert adaptive_batch.limit == 2


def test_a_smaller_batch_is_kept_until_many_successes(model: Captioner) -> None:
    device = Device(capacity=1)
    adaptive_batch = AdaptiveBatch()
    adaptive_batch.caption(with_encoder(device, model), [BLANK] * 4, GREEDY)
    device.capacity, device.batches = 1000, []
    adaptive_batch.caption(with_encoder(device, model), [BLANK] * 4, GREEDY)
    assert device.batches == [1, 1, 1, 1]
    adaptive_batch.caption(with_encoder(device, model), [BLANK] * GROW_AFTER, GREEDY)
    device.batches = []
    adaptive_batch.caption(with_encoder(device, model), [BLANK] * 4, GREEDY)
    assert device.batches == [2, 2]


def test_a_device_without_memory_for_one_image_is_not_the_fault_of_the_image(model: Captioner) -> None:
    with pytest.raises(DeviceOutOfMemory, match="out of memory"):
        AdaptiveBatch().caption(with_encoder(Device(capacity=0), model), [BLANK] * 4, GREEDY)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"), DeviceFailed),
        (torch.AcceleratorError("CUDA error: out of memory"), DeviceOutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceFailed),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), DeviceOutOfMemory),
        (RuntimeError("The size of tensor a (3) must match"), RuntimeError),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18 GB). Tried to allocate 1 GB."), DeviceOutOfMemory),
        (ValueError("a bug"), ValueError),
    ],
)
def test_errors_of_the_device_are_distinguished_from_bugs(
    model: Captioner, error: Exception, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as raised:
        with_encoder(Device(errors=[error]), model).caption([BLANK], GREEDY)
    assert type(raised.value) is expected
    if expected in (DeviceFailed, DeviceOutOfMemory):
        assert "\n" not in str(raised.value)


class Glitching(Device):
    """An encoder that computes something that is no number for bright images, as often as `glitches` says."""

    def __init__(self, glitches: int, wrong: float = float("nan")) -> None:
        super().__init__()
        self.glitches, self.wrong = glitches, wrong

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        features = super().__call__(pixels)
        if self.glitches:
            self.glitches -= 1
            features[(pixels > 0).flatten(1).any(1), 3, 5] = self.wrong
        return features


BRIGHT = np.full_like(BLANK, 255)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_image_for_which_there_are_no_numbers_twice_has_no_text_and_the_others_have(
    model: Captioner, wrong: float
) -> None:
    device = Glitching(2, wrong)
    found = with_encoder(device, model).caption([BLANK, BRIGHT, BLANK], GREEDY)
    assert [bool(caption.text) for caption in found] == [True, False, True]
    assert found[1].confidence == 0
    assert found[1].vector is None
    assert device.batches == [3, 1]


def test_an_image_for_which_there_are_numbers_at_the_second_attempt_is_captioned(model: Captioner) -> None:
    found = with_encoder(Glitching(1), model).caption([BLANK, BRIGHT], GREEDY)
    assert all(caption.text and caption.vector for caption in found)


def test_a_device_without_numbers_for_any_of_several_images_has_failed(model: Captioner) -> None:
    with pytest.raises(DeviceFailed, match="no numbers for any of 2 images"):
        with_encoder(Glitching(2), model).caption([BRIGHT, BRIGHT], GREEDY)
