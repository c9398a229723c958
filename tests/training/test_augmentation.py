"""Augmentation draws the same for the same epoch, and shows what it says that it shows."""

import dataclasses
import random

import torch

from training.config import TrainConfig
from training.data.augmentation import Augmentation, augment, draw_augmentation

WHOLE = Augmentation(0, 0, 1, 1, False, 1, 1)
STRIPES = torch.arange(0, 192, 6, dtype=torch.uint8).view(1, 1, 32, 1).expand(1, 32, 32, 3)  # dark on the left


def shown(change: Augmentation, size: int = 0) -> torch.Tensor:
    return augment(STRIPES, [change], size)[0]


def assert_similar(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=0.01)  # levels of 255


def test_a_whole_image_stays_as_it_is() -> None:
    assert_similar(shown(WHOLE), STRIPES[0])


def test_a_mirrored_image_is_reversed() -> None:
    assert_similar(shown(WHOLE._replace(mirrored=True)), STRIPES[0].flip(1))


def test_a_crop_shows_its_part_of_the_image_in_the_given_size() -> None:
    right_half = shown(WHOLE._replace(left=0.5, width=0.5), 16)
    assert right_half.shape == (16, 16, 3)
    assert_similar(right_half, STRIPES[0, :16, 16:])


def test_light_changes_contrast_around_the_mean_and_brightness_around_black() -> None:
    mean = STRIPES.float().mean()
    torch.testing.assert_close(shown(WHOLE._replace(contrast=0.0)), torch.full((32, 32, 3), float(mean)))
    assert shown(WHOLE._replace(brightness=0.5)).mean() == mean / 2
    assert shown(WHOLE._replace(brightness=2.0)).max() == 255


def test_crops_keep_to_the_limits_of_the_config() -> None:
    rng = random.Random(1)
    drawn = [draw_augmentation(TrainConfig(), rng) for _ in range(500)]
    assert all(0.59 < a.width * a.height <= 1 for a in drawn if max(a.width, a.height) < 1)
    assert all(a.left >= 0 and a.left + a.width <= 1 + 1e-9 and a.top + a.height <= 1 + 1e-9 for a in drawn)
    assert 150 < sum(a.mirrored for a in drawn) < 350
    off = dataclasses.replace(TrainConfig(), smallest_crop=1.0, mirrored=0.0, light=0.0)
    assert draw_augmentation(off, rng) == WHOLE
