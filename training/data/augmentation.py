"""Random crops, mirror images and light, applied to whole batches on the device that trains.

A crop keeps most of the image, at nearly its aspect ratio (Szegedy et al. 2015, arXiv:1409.4842, with narrower limits:
a caption is about the whole image). What is drawn depends on the epoch's random generator only, not on the device.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the usual name

from training.config import TrainConfig

_ASPECT = 1.12  # most by which a crop is stretched in one direction


class Augmentation(NamedTuple):
    """How one image is changed. Lengths are shares of the image's side."""

    left: float
    top: float
    width: float
    height: float
    mirrored: bool
    contrast: float  # factor on the difference from the image's mean
    brightness: float  # factor


def draw_augmentation(config: TrainConfig, rng: random.Random) -> Augmentation:
    """Draw one; it takes as many numbers from `rng` whatever the config says."""
    area, aspect = rng.uniform(config.smallest_crop, 1), rng.uniform(-1, 1)
    stretch = _ASPECT**aspect if config.smallest_crop < 1 else 1.0
    width, height = (min(1.0, (area * s) ** 0.5) for s in (stretch, 1 / stretch))
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    mirrored = rng.random() < config.mirrored
    contrast, brightness = (1 + rng.uniform(-config.light, config.light) for _ in range(2))
    return Augmentation(left, top, width, height, mirrored, contrast, brightness)


def augment(pixels: Tensor, augmentations: Sequence[Augmentation], size: int = 0) -> Tensor:
    """Change every image of a batch: (B, S, S, 3) uint8 -> (B, size, size, 3) float32, 0 to 255. Size 0 keeps S."""
    values = torch.tensor(augmentations, dtype=torch.float32).to(pixels.device, non_blocking=True)
    left, top, width, height, mirrored, contrast, brightness = values.unbind(1)
    images = pixels.permute(0, 3, 1, 2).float()
    # affine_grid's coordinates go from -1 to 1 in both directions
    across = width * (1 - 2 * mirrored)
    zeros = torch.zeros_like(left)
    theta = torch.stack(
        [across, zeros, 2 * left + width - 1, zeros, height, 2 * top + height - 1], 1
    ).view(-1, 2, 3)  # fmt: skip
    side = size or images.size(-1)
    grid = F.affine_grid(theta, [len(images), 3, side, side], align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (mean + (images - mean) * contrast.view(-1, 1, 1, 1)) * brightness.view(-1, 1, 1, 1)
    return images.clamp_(0, 255).permute(0, 2, 3, 1)
