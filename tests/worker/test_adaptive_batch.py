"""A device that is full gets half as many images at once; one that is broken is told from a bug."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from captioning.bundles import find_bundles
from captioning.errors import DeviceFailed, DeviceOutOfMemory
from captioning.model.captioner import Captioner, load_decoder, preprocessing_of
from captioning.values import DecodeOptions
from worker.adaptive_batch import GOOD_PORTIONS, AdaptiveBatch

GREEDY = DecodeOptions(beam_size=1)
BLANK = np.zeros((224, 224, 3), np.uint8)


class Device:
    """An encoder that holds so many images, and fails otherwise as torch does."""

    def __init__(self, holds: int = 1000, fails: Sequence[Exception] = ()) -> None:
        self.holds = holds
        self.fails = list(fails)
        self.seen: list[int] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(pixels))
        if self.fails:
            raise self.fails.pop(0)
        if len(pixels) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.zeros(len(pixels), 49, 2048)


@pytest.fixture(scope="module")
def model() -> Captioner:
    bundle = find_bundles()["flickr8k-gru"]
    decoder, vocabulary = load_decoder(bundle)
    return Captioner(Device(), decoder, vocabulary, preprocessing_of(bundle))


def on(device: Device, model: Captioner) -> Captioner:
    return Captioner(device, model.decoder, model.vocabulary, model.preprocessing)


def test_every_image_is_captioned_whatever_the_device_holds(model: Captioner) -> None:
    device = Device(holds=3)
    adaptive_batch = AdaptiveBatch()
    assert len(adaptive_batch.caption(on(device, model), [BLANK] * 10, GREEDY)) == 10
    assert device.seen == [10, 5, 2, 2, 2, 2, 2]
    assert adaptive_batch.most == 2


def test_a_smaller_batch_is_remembered_and_a_larger_one_tried_again_later(model: Captioner) -> None:
    device = Device(holds=1)
    adaptive_batch = AdaptiveBatch()
    adaptive_batch.caption(on(device, model), [BLANK] * 4, GREEDY)
    device.holds, device.seen = 1000, []
    adaptive_batch.caption(on(device, model), [BLANK] * 4, GREEDY)
    assert device.seen == [1, 1, 1, 1]
    adaptive_batch.caption(on(device, model), [BLANK] * GOOD_PORTIONS, GREEDY)
    device.seen = []
    adaptive_batch.caption(on(device, model), [BLANK] * 4, GREEDY)
    assert device.seen == [2, 2]


def test_a_device_without_room_for_one_image_is_trouble_not_a_bad_image(model: Captioner) -> None:
    with pytest.raises(DeviceOutOfMemory, match="out of memory"):
        AdaptiveBatch().caption(on(Device(holds=0), model), [BLANK] * 4, GREEDY)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"), DeviceFailed),
        (torch.AcceleratorError("CUDA error: out of memory"), DeviceOutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceFailed),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), DeviceOutOfMemory),
        (RuntimeError("The size of tensor a (3) must match"), RuntimeError),
        (ValueError("a bug"), ValueError),
    ],
)
def test_what_torch_says_of_the_device_is_told_from_a_bug(
    model: Captioner, error: Exception, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        on(Device(fails=[error]), model).caption([BLANK], GREEDY)
    assert type(caught.value) is expected
    if expected in (DeviceFailed, DeviceOutOfMemory):
        assert "\n" not in str(caught.value)
