"""The encoder while it is trained: stages that learn, behind stages that do not.

Batch normalisation keeps ImageNet's statistics, in stages that learn too: some thousand images are too few to estimate
new ones. Its weights and biases learn. The frozen stages run as they do when the product captions, with batch
normalisation folded, so training from pixels computes the maps that a cache would hold.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from captioning.model.encoder import PixelsToGrid
from captioning.model.precision import best_precision
from captioning.model.runtime import optimize_for_inference
from training.config import STAGES, Stage
from training.data.augmentation import Augmentation, augment


class Trunk(nn.Module):
    """Computes grid features in two steps, from pixels or from cached maps before layer4.

    `frozen` turns pixels (B, S, S, 3) into the maps that the first learning stage reads; None for cached maps.
    """

    def __init__(self, encoder: nn.Module, tune_from: Stage, frozen: "FrozenStages | None") -> None:
        super().__init__()
        tuned = nn.ModuleDict({name: getattr(encoder, name) for name in stages_from(tune_from)})
        # a GPU would convert weights in another order at every step
        self.tuned = tuned.to(memory_format=torch.channels_last)
        self.frozen = frozen

    def maps(self, images: Tensor, augmentations: Sequence[Augmentation] = (), size: int = 0) -> Tensor:
        """Return the maps (B, C, H, W) that the learning stages read.

        `images` are cached maps (B, H, W, C), or pixels (B, S, S, 3) uint8, which are augmented to `size` (0: S).
        """
        if self.frozen is None:
            return images.permute(0, 3, 1, 2)
        with torch.no_grad():
            return cast("Tensor", self.frozen(augment(images, augmentations, size) if augmentations else images))

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the grid (B, N, 2048) of maps (B, C, H, W)."""
        for stage in self.tuned.values():
            maps = stage(maps)
        return maps.flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> "Trunk":
        """Keep the statistics of batch normalisation, whatever the mode."""
        return super().train(False)


class FrozenStages(nn.Module):
    """The stages before the first that learns: pixels (B, S, S, 3), 0 to 255 -> maps (B, C, H, W)."""

    def __init__(self, network: PixelsToGrid, tune_from: Stage) -> None:
        super().__init__()
        network = as_served(network)
        self.scale, self.shift = network.scale, network.shift
        encoder = network.encoder
        before = [getattr(encoder, name) for name in STAGES[: STAGES.index(tune_from)]]
        self.stages = nn.Sequential(encoder.conv1, encoder.bn1, encoder.relu, encoder.maxpool, *before)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the maps, in the precision of the product."""
        with torch.autocast(pixels.device.type, enabled=False):
            x = pixels.permute(0, 3, 1, 2).to(self.scale.dtype)
            return cast("Tensor", self.stages(x * self.scale + self.shift))


def as_served(network: PixelsToGrid) -> PixelsToGrid:
    """Return the encoder, changed in place, as the product computes it on this machine. It does not learn."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return optimize_for_inference(network, device, best_precision(device)).requires_grad_(False)


def stages_from(first: Stage) -> tuple[Stage, ...]:
    """Return a stage and those after it."""
    return STAGES[STAGES.index(first) :]
