"""Distillation: a network's own beam search writes the captions that it learns from next.

A greedy search of a decoder that has learned to write what its beam search finds comes close to it (sequence-level
knowledge distillation, Kim & Rush 2016, arXiv:1606.07947).
"""

from dataclasses import replace

import torch

from training.data.batches import TrainingData
from training.fit.network import CaptioningNetwork
from training.fit.validate import CAPTIONED_AT_ONCE, caption_all, captioners
from training.progress import progress


def distilled(network: CaptioningNetwork, data: TrainingData, device: torch.device) -> TrainingData:
    """Return the data with a caption by each decoder of the network for every training image, instead of people's.

    The references of the val images stay.
    """
    network.to(device).eval()
    of_decoders, names = captioners(network, data), data.corpus.train
    written: dict[str, tuple[str, ...]] = {}
    with progress(f"captions of {len(names)} training images") as tick:
        for start in range(0, len(names), CAPTIONED_AT_ONCE):
            batch = names[start : start + CAPTIONED_AT_ONCE]
            captions = caption_all(of_decoders, data.train, batch, device)
            written |= {name: tuple(found[name].text for found in captions.values()) for name in batch}
            tick(len(written), len(names))
    return replace(data, corpus=replace(data.corpus, captions={**data.corpus.captions, **written}))
