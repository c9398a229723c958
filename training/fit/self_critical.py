"""Self-critical sequence training (SCST): captions are sampled, and those that beat the others become more likely.

Rennie et al. 2017 (arXiv:1612.00563), with the mean of an image's other samples as the baseline (Luo 2020,
arXiv:2003.09971). The reward is CIDEr-D with the document frequencies of the training captions. The end token counts
as a word of it: otherwise captions learn to stop in the middle (SacreEOS, arXiv:2305.12254).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioning.model.concepts import Concepts
from captioning.model.decoder import CaptionDecoder
from captioning.model.vocabulary import END, PAD, START, Vocabulary
from training.fit.cider_reward import Sampled
from training.fit.network import mask_special_tokens


def sample(
    decoder: CaptionDecoder,
    grid: Tensor,
    concepts: Concepts | None,
    count: int,
    max_length: int,
    temperature: float = 1.0,
) -> Tensor:
    """Sample `count` captions for each image: (B, N, F) -> ids (B x count, T), START first, PAD after END."""
    memory, state = decoder.start(grid, concepts)
    state = tuple(s.repeat_interleave(count, 1) for s in state)
    last = torch.full((grid.size(0) * count,), START, device=grid.device)
    words = [last]
    for _ in range(max_length + 1):
        logp, state = decoder.step(last, state, memory)
        ended = (last == END) | (last == PAD)
        probabilities = torch.softmax(mask_special_tokens(logp) / temperature, -1)
        last = torch.multinomial(probabilities, 1).squeeze(1).masked_fill(ended, PAD)
        words.append(last)
        # asking a GPU would make it wait for the answer, at every word
        if not last.is_cuda and bool(((last == END) | (last == PAD)).all()):
            break
    return torch.stack(words, 1)


def captions_of(samples: Tensor, names: Sequence[str], vocabulary: Vocabulary) -> list[Sampled]:
    """Return sampled ids (R, T) as captions. Each image in `names` has as many rows, adjacent."""
    count = len(samples) // len(names)
    rows = samples[:, 1:].tolist()
    return [Sampled(names[i // count], vocabulary.decode(row), END in row) for i, row in enumerate(rows)]


def advantages(rewards: Sequence[float], images: int) -> Tensor:
    """Return each caption's reward minus the mean reward of its image's other captions: R rewards -> (R,)."""
    table = torch.tensor(rewards).view(images, -1)
    baseline = (table.sum(1, keepdim=True) - table) / max(1, table.size(1) - 1)
    return (table - baseline).flatten()
