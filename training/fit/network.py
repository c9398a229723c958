"""What learns: decoders, and stage 5 of the encoder when it is tuned."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, torch's own habit

from captioning.model.decoder import CaptionDecoder
from captioning.model.vocabulary import PAD, START, UNKNOWN

NEVER_SAID = (PAD, START, UNKNOWN)


class CaptioningNetwork(nn.Module):
    """Cached features to losses, through stage 5 when it learns too.

    Several decoders may learn on one stage 5, which then favours none of them.
    """

    def __init__(self, decoders: Mapping[str, CaptionDecoder], stage5: nn.Module | None = None) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(dict(decoders))
        self.stage5 = stage5

    def each(self) -> list[tuple[str, CaptionDecoder]]:
        """Return the decoders with their names."""
        return [(name, cast("CaptionDecoder", decoder)) for name, decoder in self.decoders.items()]

    def grid(self, features: Tensor) -> Tensor:
        """(B, 14, 14, 1024) through stage 5, else (B, N, 2048) as they are -> (B, N, 2048)."""
        if not torch.is_autocast_enabled(features.device.type):  # else it converts them itself
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
        """Return the loss of each decoder, in nats a word: features of B images, (R, T) words for each decoder.

        With advantages (R,) a sentence's words count by its advantage, the end mark like any other (SacreEOS,
        arXiv:2305.12254): the gradient of self-critical training.
        """
        grid = self.grid(features)
        losses = {}
        for name, decoder in self.each():
            given, wanted = words[name][:, :-1], words[name][:, 1:]
            counts = wanted != PAD
            logits = decoder.spell(decoder.read(grid, given)[counts]).float()  # padding is never spelled
            if advantages is None:
                losses[name] = F.cross_entropy(logits, wanted[counts], label_smoothing=label_smoothing)
            else:
                worth = advantages[name].unsqueeze(1).expand_as(wanted)[counts]
                surprise = F.cross_entropy(only_words(logits) / temperature, wanted[counts], reduction="none")
                losses[name] = (surprise * worth).mean()
        return losses

    def train(self, mode: bool = True) -> "CaptioningNetwork":
        """Switch dropout; batch statistics stay those of ImageNet (6000 images are too few to move them)."""
        super().train(mode)
        if self.stage5 is not None:
            self.stage5.eval()
        return self


def only_words(logits: Tensor) -> Tensor:
    """Return logits (..., V) with the marks that are never said at minus infinity."""
    return logits.index_fill(-1, torch.tensor(NEVER_SAID, device=logits.device), float("-inf"))
