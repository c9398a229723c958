"""The best words of each row of scores, without sorting the row."""

import torch
from torch import Tensor

BLOCK = 128  # columns


def best_words(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest scores of each row (R, V) and their columns, the highest first: (R, count), or (R, V).

    They lie in the blocks with the highest maxima, so only those blocks are sorted.
    """
    size = scores.size(-1)
    blocks = size // BLOCK
    if size % BLOCK or blocks <= count:
        return scores.topk(min(count, size))
    in_blocks = scores.view(-1, blocks, BLOCK)
    chosen = in_blocks.amax(-1).topk(count).indices  # (R, count)
    candidates = in_blocks.gather(1, chosen.unsqueeze(-1).expand(-1, -1, BLOCK)).flatten(1)
    best, place = candidates.topk(count)
    block = chosen.gather(1, torch.div(place, BLOCK, rounding_mode="floor"))
    return best, block * BLOCK + place % BLOCK
