"""The network that is trained: one or more decoders, and the stages of the encoder that are tuned."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

from captioning.model.decoder import CaptionDecoder
from captioning.model.vocabulary import PAD, START, UNKNOWN
from training.config import TrainConfig
from training.data.augmentation import Augmentation
from training.fit.trunk import Trunk

_NEVER_GENERATED = (PAD, START, UNKNOWN)


class CaptioningNetwork(nn.Module):
    """Computes losses from cached features, or through the trunk when the encoder is tuned.

    Several decoders may share one trunk, which is then trained for all of them. `config` says how the losses are
    computed. It is no argument of `forward`: Fabric converts the arguments to the precision of the run, and refuses
    those that cannot be changed.
    """

    def __init__(
        self,
        decoders: Mapping[str, CaptionDecoder],
        trunk: Trunk | None = None,
        config: TrainConfig = TrainConfig(),  # noqa: B008, a value
    ) -> None:
        super().__init__()
        self.config = config
        self.decoders = nn.ModuleDict(dict(decoders))
        self.trunk = trunk

    def each(self) -> list[tuple[str, CaptionDecoder]]:
        """Return the decoders with their names."""
        return [(name, cast("CaptionDecoder", decoder)) for name, decoder in self.decoders.items()]

    def grid(self, images: Tensor) -> Tensor:
        """Return grid features (B, N, 2048): of the trunk's input when the encoder is tuned, as they are otherwise."""
        return self.read(self.maps(images))

    def maps(self, images: Tensor, augmentations: Sequence[Augmentation] = (), size: int = 0) -> Tensor:
        """Return what the stages that learn read (B, C, H, W), or the grid features when there are none."""
        floating = images.is_floating_point()
        if floating and not torch.is_autocast_enabled(images.device.type):  # autocast converts them itself
            images = images.to(next(self.parameters()).dtype)
        return images if self.trunk is None else self.trunk.maps(images, augmentations, size)

    def read(self, maps: Tensor) -> Tensor:
        """Return grid features (B, N, 2048) of what `maps` returned."""
        return maps if self.trunk is None else cast("Tensor", self.trunk(maps))

    def forward(
        self,
        grid: Tensor,
        words: Mapping[str, Tensor],
        advantages: Mapping[str, Tensor] | None,
        texts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of each decoder, in nats per word, for grids (B, N, 2048) and (R, T) words per decoder.

        With advantages (R,), the words of a caption are weighted by its advantage, the end token too (SacreEOS,
        arXiv:2305.12254): the gradient of self-critical training. `texts` (R', T') are captions without images, read
        with an empty grid.
        """
        losses, config = {}, self.config
        for name, decoder in self.each():
            if advantages is None:
                losses[name] = _cross_entropy(decoder, grid, words[name], config)
                if texts is not None:
                    loss = _cross_entropy(decoder, grid.new_zeros(1, *grid.shape[1:]), texts, config)
                    losses[name] = losses[name] + config.text_weight * loss
            else:
                losses[name] = _self_critical(decoder, grid, words[name], advantages[name], config)
        return losses


def _cross_entropy(decoder: CaptionDecoder, grid: Tensor, words: Tensor, config: TrainConfig) -> Tensor:
    counted, targets, logits = _predict(decoder, grid, words)
    return F.cross_entropy(logits, targets[counted], label_smoothing=config.label_smoothing)


def _self_critical(
    decoder: CaptionDecoder, grid: Tensor, words: Tensor, advantages: Tensor, config: TrainConfig
) -> Tensor:
    counted, targets, logits = _predict(decoder, grid, words)
    weights = advantages.unsqueeze(1).expand_as(targets)[counted]
    scaled = mask_special_tokens(logits) / config.temperature
    loss = (F.cross_entropy(scaled, targets[counted], reduction="none") * weights).mean()
    if config.entropy_weight:
        loss = loss - config.entropy_weight * _entropy(scaled).mean()
    return loss


def _predict(decoder: CaptionDecoder, grid: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return which targets are words (R, T), the targets (R, T), and the logits of those that are (C, V)."""
    inputs, targets = words[:, :-1], words[:, 1:]
    counted = targets != PAD
    return counted, targets, decoder.logits(decoder.read(grid, inputs)[counted]).float()  # not computed for padding


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax, in nats: (..., V) -> (...)."""
    logp = torch.log_softmax(logits, -1)
    return -(logp.exp() * logp.clamp(min=-1e4)).sum(-1)  # minus infinity times 0 is not a number


def mask_special_tokens(logits: Tensor) -> Tensor:
    """Return logits (..., V) with minus infinity for the tokens that are never generated."""
    return logits.index_fill(-1, torch.tensor(_NEVER_GENERATED, device=logits.device), float("-inf"))
