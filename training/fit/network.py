"""The network that is trained: one or more decoders, and stage 5 of the encoder when it is tuned."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

from captioning.model.decoder import CaptionDecoder
from captioning.model.vocabulary import PAD, START, UNKNOWN

_NEVER_GENERATED = (PAD, START, UNKNOWN)


class CaptioningNetwork(nn.Module):
    """Computes losses from cached features, through stage 5 when it is tuned.

    Several decoders may share one stage 5, which is then trained for all of them.
    """

    def __init__(self, decoders: Mapping[str, CaptionDecoder], stage5: nn.Module | None = None) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(dict(decoders))
        self.stage5 = stage5

    def each(self) -> list[tuple[str, CaptionDecoder]]:
        """Return the decoders with their names."""
        return [(name, cast("CaptionDecoder", decoder)) for name, decoder in self.decoders.items()]

    def grid(self, features: Tensor) -> Tensor:
        """Return grid features (B, N, 2048), from stage-4 features (B, 14, 14, 1024) when stage 5 is tuned."""
        if not torch.is_autocast_enabled(features.device.type):  # autocast converts them itself
            features = features.to(next(self.parameters()).dtype)
        if self.stage5 is None:
            return features
        maps: Tensor = self.stage5(features.permute(0, 3, 1, 2))
        return maps.flatten(2).transpose(1, 2)

    def forward(
        self,
        features: Tensor,
        words: Mapping[str, Tensor],
        advantages: Mapping[str, Tensor] | None = None,
        label_smoothing: float = 0.0,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """Return the loss of each decoder, in nats per word, for features of B images and (R, T) words per decoder.

        With advantages (R,), the words of a caption are weighted by its advantage, the end token too (SacreEOS,
        arXiv:2305.12254): the gradient of self-critical training.
        """
        grid = self.grid(features)
        losses = {}
        for name, decoder in self.each():
            inputs, targets = words[name][:, :-1], words[name][:, 1:]
            counted = targets != PAD
            logits = decoder.logits(decoder.read(grid, inputs)[counted]).float()  # not computed for padding
            if advantages is None:
                losses[name] = F.cross_entropy(logits, targets[counted], label_smoothing=label_smoothing)
            else:
                weights = advantages[name].unsqueeze(1).expand_as(targets)[counted]
                scaled = mask_special_tokens(logits) / temperature
                losses[name] = (F.cross_entropy(scaled, targets[counted], reduction="none") * weights).mean()
        return losses

    def train(self, mode: bool = True) -> "CaptioningNetwork":
        """Switch dropout. Batch norm keeps the statistics of ImageNet: 6000 images are too few to estimate new ones."""
        super().train(mode)
        if self.stage5 is not None:
            self.stage5.eval()
        return self


def mask_special_tokens(logits: Tensor) -> Tensor:
    """Return logits (..., V) with minus infinity for the tokens that are never generated."""
    return logits.index_fill(-1, torch.tensor(_NEVER_GENERATED, device=logits.device), float("-inf"))
