"""Captions and scores of the val images with the network that is trained, or of other images with cached features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from captioning.model.captioner import Captioner, GridEncoder
from captioning.model.pixels import Preprocessing
from captioning.values import Caption, DecodeOptions
from training.data.batches import ImageSource, TrainingData
from training.evaluate.score_sets import merged, score_sets
from training.fit.network import CaptioningNetwork

CAPTIONED_AT_ONCE = 100  # images

Scores = dict[str, dict[str, Any]]
"""By decoder."""

Texts = dict[str, dict[str, str]]
"""Captions by decoder and image."""


def validate(network: CaptioningNetwork, data: TrainingData, limit: int, fabric: Fabric) -> tuple[Scores, Texts]:
    """Return the scores of each decoder on the val images, and its captions.

    `limit` is how many images of each data set are captioned, from the first; 0: all. As in the product, only the
    encoder computes in a lower precision.
    """

    def encode(images: Tensor) -> Tensor:
        with fabric.autocast():
            return network.grid(images)

    all_captioners = captioners(network, data, encode)
    found: dict[str, Texts] = {decoder: {} for decoder in all_captioners}
    for part in data.sets:
        names = part.corpus.val[: limit or None]
        for decoder, captions in caption_all(all_captioners, data.val, names, fabric.device).items():
            found[decoder][part.name] = {name: caption.text for name, caption in captions.items()}
    scores = {decoder: score_sets(of_sets, data.corpus.captions) for decoder, of_sets in found.items()}
    return scores, {decoder: merged(of_sets) for decoder, of_sets in found.items()}


def captioners(
    network: CaptioningNetwork, data: TrainingData, encode: GridEncoder | None = None
) -> dict[str, Captioner]:
    """Return the product's captioner for each decoder. They encode what the network reads, with `encode` if given."""
    return {
        name: Captioner(
            encode or network.grid, decoder, data.vocabulary, Preprocessing(), classifier=network.classifier
        )
        for name, decoder in network.each()
    }


def caption_all(
    captioners: Mapping[str, Captioner],
    source: ImageSource,
    names: Sequence[str],
    device: torch.device,
    options: DecodeOptions = DecodeOptions(),  # noqa: B008, a value
) -> dict[str, dict[str, Caption]]:
    """Return each captioner's caption of each named image, by beam search. They share an encoder: the first one's."""
    captions: dict[str, dict[str, Caption]] = {decoder: {} for decoder in captioners}
    encode = next(iter(captioners.values())).encode
    with torch.inference_mode():
        for start in range(0, len(names), CAPTIONED_AT_ONCE):
            batch = names[start : start + CAPTIONED_AT_ONCE]
            grid = encode(source.get(batch).to(device)).float()
            for decoder, captioner in captioners.items():
                captions[decoder] |= zip(batch, captioner.caption_features(grid, options), strict=True)
    return captions
