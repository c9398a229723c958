"""The encoder's ImageNet classifier, kept alive while the encoder is tuned.

Learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282): in each training image, the encoder must see the
classes that it saw before tuning. What it forgets without that is in `training/LOG.md`.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

from captioning.errors import UsageError
from training.config import Stage
from training.data.encoders import EncoderFile, read_weights
from training.fit.trunk import as_served, stages_from

_FEATURES = 2048


class Classifier(nn.Module):
    """Compares the classes that the tuned encoder sees with those that it saw before, through one frozen `head`."""

    def __init__(self, head: nn.Linear, encoder: EncoderFile, tune_from: Stage) -> None:
        super().__init__()
        network = as_served(encoder.load())
        self.dtype = network.scale.dtype
        self.before = nn.Sequential(*(getattr(network.encoder, name) for name in stages_from(tune_from)))
        self.head = head.requires_grad_(False)

    def forward(self, maps: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the tuned stages' grid (B, N, 2048) with what the original ones make of the same maps (B, C, H, W).

        Returns the Kullback-Leibler divergence of the classes' probabilities, in nats per image, and the share of
        images that have the same most probable class.
        """
        with torch.autocast(maps.device.type, enabled=False):
            with torch.no_grad():
                before = self.head(cast("Tensor", self.before(maps.to(self.dtype))).float().mean((2, 3)))
            now = self.head(grid.float().mean(1))
        divergence = F.kl_div(now.log_softmax(-1), before.log_softmax(-1), reduction="batchmean", log_target=True)
        return divergence, (now.argmax(-1) == before.argmax(-1)).float().mean()


def open_head(path: Path) -> nn.Linear:
    """Read `fc.weight` (classes, 2048) and `fc.bias` from a file of weights.

    Raises UsageError when the file has none, or cannot be read.
    """
    state = read_weights(path)
    if not {"fc.weight", "fc.bias"} <= state.keys():
        raise UsageError(f"{path} has no classifier: give a file with fc.weight and fc.bias.")
    weight, bias = state["fc.weight"].float(), state["fc.bias"].float()
    if weight.shape != (len(bias), _FEATURES):
        raise UsageError(f"{path}: fc.weight has the shape {tuple(weight.shape)}, not ({len(bias)}, {_FEATURES}).")
    head = nn.Linear(_FEATURES, len(bias))
    head.load_state_dict({"weight": weight, "bias": bias})
    return head
