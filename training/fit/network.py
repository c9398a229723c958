"""The network that is trained: one or more decoders, and the stages of the encoder that are tuned."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

from captioning.model.concepts import ConceptClassifier, Concepts
from captioning.model.decoder import CaptionDecoder
from captioning.model.vocabulary import PAD, START, UNKNOWN
from training.config import TrainConfig
from training.data.augmentation import Augmentation
from training.data.batches import TextBatch
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
        classifier: ConceptClassifier | None = None,
        config: TrainConfig = TrainConfig(),  # noqa: B008, a value
    ) -> None:
        super().__init__()
        self.config = config
        self.decoders = nn.ModuleDict(dict(decoders))
        self.trunk = trunk
        self.classifier = None if classifier is None else classifier.requires_grad_(False)

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

    def concepts(self, grid: Tensor) -> Concepts | None:
        """Return the concepts that the classifier sees in grids (B, N, 2048); None without a classifier."""
        if self.classifier is None:
            return None
        with torch.no_grad():
            return cast("Concepts", self.classifier(grid))

    def forward(
        self,
        grid: Tensor,
        words: Mapping[str, Tensor],
        advantages: Mapping[str, Tensor] | None,
        texts: TextBatch | None = None,
        swapped: Concepts | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of each decoder, in nats per word, for grids (B, N, 2048) and (R, T) words per decoder.

        With advantages (R,), the words of a caption are weighted by its advantage, the end token too (SacreEOS,
        arXiv:2305.12254): the gradient of self-critical training. `texts` are captions without images, read with an
        empty grid. `swapped` are concepts that some images have instead of their own.
        """
        losses, config, concepts = {}, self.config, self.concepts(grid)
        if concepts is not None and swapped is not None:
            concepts = _replaced(concepts, swapped)
        for name, decoder in self.each():
            if advantages is None:
                losses[name] = _cross_entropy(decoder, grid, words[name], concepts, config)
                if texts is not None:
                    # one cell, which is all that an empty grid can say; a row for each that has its own concepts
                    empty = grid.new_zeros(1 if texts.concepts is None else len(texts.words), 1, grid.size(-1))
                    loss = _cross_entropy(decoder, empty, texts.words, texts.concepts, config)
                    losses[name] = losses[name] + config.text_weight * loss
            else:
                losses[name] = _self_critical(decoder, grid, words[name], advantages[name], concepts, config)
        return losses


def _replaced(concepts: Concepts, others: Concepts) -> Concepts:
    """Return concepts, of images for which there are others those."""
    given = (others.weights > 0).any(1)
    longest = max(concepts.words.size(2), others.words.size(2))
    words, new = (F.pad(c.words, (0, longest - c.words.size(2)), value=PAD) for c in (concepts, others))
    weights = torch.where(given[:, None], others.weights.to(concepts.weights.dtype), concepts.weights)
    return Concepts(torch.where(given[:, None, None], new, words), weights)


def _cross_entropy(
    decoder: CaptionDecoder, grid: Tensor, words: Tensor, concepts: Concepts | None, config: TrainConfig
) -> Tensor:
    counted, targets, logits = _predict(decoder, grid, words, concepts)
    return F.cross_entropy(logits, targets[counted], label_smoothing=config.label_smoothing)


def _self_critical(
    decoder: CaptionDecoder,
    grid: Tensor,
    words: Tensor,
    advantages: Tensor,
    concepts: Concepts | None,
    config: TrainConfig,
) -> Tensor:
    counted, targets, logits = _predict(decoder, grid, words, concepts)
    weights = advantages.unsqueeze(1).expand_as(targets)[counted]
    scaled = mask_special_tokens(logits) / config.temperature
    loss = (F.cross_entropy(scaled, targets[counted], reduction="none") * weights).mean()
    if config.entropy_weight:
        loss = loss - config.entropy_weight * _entropy(scaled).mean()
    return loss


def _predict(
    decoder: CaptionDecoder, grid: Tensor, words: Tensor, concepts: Concepts | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which targets are words (R, T), the targets (R, T), and the logits of those that are (C, V)."""
    inputs, targets = words[:, :-1], words[:, 1:]
    counted = targets != PAD
    read = decoder.read(grid, inputs, concepts)[counted]  # no logits for padding
    return counted, targets, decoder.logits(read).float()


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax, in nats: (..., V) -> (...)."""
    logp = torch.log_softmax(logits, -1)
    return -(logp.exp() * logp.clamp(min=-1e4)).sum(-1)  # minus infinity times 0 is not a number


def mask_special_tokens(logits: Tensor) -> Tensor:
    """Return logits (..., V) with minus infinity for the tokens that are never generated."""
    return logits.index_fill(-1, torch.tensor(_NEVER_GENERATED, device=logits.device), float("-inf"))
