"""The number of images in a batch grows while the device gets faster, and stays within memory and time."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import DeviceOutOfMemory
from captioning.values import Caption, DecodeOptions
from worker.adaptive_batch import GPU_START, AdaptiveBatch
from worker.batch_climb import BatchClimb

GREEDY = DecodeOptions(beam_size=1)
MANY = 200  # batches, more than any climb takes


class Device:
    """A captioner on a device with its own clock: `cost(images)` are the seconds that a batch takes."""

    def __init__(self, cost: Callable[[int], float], memory: int = 10**6) -> None:
        self.cost, self.memory, self.now = cost, memory, 0.0
        self.batches: list[int] = []

    def caption(self, images: Sequence[Any], options: DecodeOptions) -> list[Caption]:
        if len(images) > self.memory:
            raise DeviceOutOfMemory("no memory")
        self.batches.append(len(images))
        self.now += self.cost(len(images))
        return [Caption("a dog", (-0.5,))] * len(images)


def climbed(device: Device, max_seconds: float = 0.5, on: str = "cuda:0", batches: int = MANY) -> AdaptiveBatch:
    """Caption full batches until any climb has ended."""
    batch = AdaptiveBatch("auto", on, max_seconds, clock=lambda: device.now)
    for _ in range(batches):
        batch.caption(device, [None] * batch.size, GREEDY)  # type: ignore[arg-type, list-item]
    return batch


@given(
    fixed=st.floats(1e-4, 0.2),
    each=st.floats(1e-6, 1e-3),
    slope=st.floats(0, 1e-6),
    max_seconds=st.floats(0.01, 2),
)
def test_the_size_is_nearly_the_fastest_that_is_allowed(
    fixed: float, each: float, slope: float, max_seconds: float
) -> None:
    device = Device(lambda images: fixed + each * images + slope * images**2)
    batch = climbed(device, max_seconds)
    allowed = [size for size in (128, 256, 512, 1024) if size == 128 or device.cost(size) <= max_seconds]
    best = max(size / device.cost(size) for size in allowed)
    assert batch.size == batch.largest
    assert batch.size / device.cost(batch.size) > 0.9 * best


@given(memory=st.integers(1, 3000), seed=st.integers(0, 100))
def test_a_climb_ends_within_the_memory_of_the_device(memory: int, seed: int) -> None:
    noise = random.Random(seed)
    device = Device(lambda images: (0.01 + images / 10_000) * noise.uniform(0.5, 2), memory)
    batch = climbed(device)
    assert batch.size == batch.largest <= min(memory, 1024)
    device.batches.clear()
    batch.caption(device, [None] * batch.size, GREEDY)  # type: ignore[arg-type, list-item]
    assert device.batches == [batch.size]


@pytest.mark.parametrize("seed", range(20))
def test_other_programs_on_the_machine_do_not_mislead_it(seed: int) -> None:
    noise = random.Random(seed)
    device = Device(lambda images: (0.02 + images / 10_000) * noise.choice([1, 1, 1, 1.02, 1.05, 1.5]) / 2)
    assert climbed(device).size >= 512


def test_a_batch_that_takes_long_does_not_grow() -> None:
    slow = Device(lambda images: 0.3 + images / 1000)
    assert climbed(slow, on="cpu").size == 32
    assert set(slow.batches) == {32}


def test_sizes_are_few() -> None:
    device = Device(lambda images: 0.05 + images / 100_000)
    assert climbed(device).size == 1024
    assert set(device.batches) == {128, 256, 512, 1024}


def test_a_device_that_gains_nothing_keeps_its_size() -> None:
    device = Device(lambda images: images / 1000)
    assert climbed(device).size == GPU_START
    assert set(device.batches) == {GPU_START, 2 * GPU_START}


def test_batches_that_are_not_full_say_nothing() -> None:
    climb = BatchClimb(32, 128)
    for _ in range(MANY):
        climb.record(31, 0.001)
    assert (climb.wanted, climb.is_settled) == (32, False)


def test_batches_of_different_models_are_not_compared() -> None:
    climb = BatchClimb(32, 64)
    for turn in range(MANY):
        climb.record(climb.wanted, 0.001, same=turn // 5)
    assert not climb.is_settled
    for _ in range(MANY):
        climb.record(climb.wanted, 0.001, same="one model")
    assert climb.is_settled


def test_a_number_of_images_is_exact() -> None:
    device = Device(lambda images: images / 1000)
    batch = AdaptiveBatch(48, "cuda:0", clock=lambda: device.now)
    for _ in range(MANY):
        batch.caption(device, [None] * batch.size, GREEDY)  # type: ignore[arg-type, list-item]
    assert set(device.batches) == {48}


def test_the_size_is_logged_once(events: list[Any]) -> None:
    climbed(Device(lambda images: 0.05 + images / 100_000))
    settled = [event for event in events if event["event"] == "batch_size_settled"]
    assert [event["images"] for event in settled] == [1024]
