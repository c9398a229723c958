"""Grid features to next-word scores: an LSTM or a GRU that looks at the picture at every word.

The attention is taken from the state after the word was read (Lu et al. 2017, arXiv:1612.01887, "spatial
attention"), with several heads and scaled dot products (Vaswani et al. 2017, arXiv:1706.03762). So nothing of
the picture flows back into the recurrence, and a known sentence is one fused RNN call and one attention.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, torch's own habit

from captioning.values import Cell

State = tuple[Tensor, ...]
"""(1, R, H) each, R = rows: one tensor for a GRU, two for an LSTM."""


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder."""

    cell: Cell
    vocabulary_size: int
    feature_size: int = 2048  # channels of a grid place
    memory_size: int = 512  # of a grid place once projected; keys, values and context too
    hidden_size: int = 512  # of the recurrent state
    embedding_size: int = 300  # of a word, in and out (tied, Press & Wolf 2017, arXiv:1608.05859)
    heads: int = 8
    feature_dropout: float = 0.3
    embedding_dropout: float = 0.3
    output_dropout: float = 0.5


class Memory(NamedTuple):
    """A batch of pictures, ready to be looked at: keys and values (B, heads, N, memory/heads)."""

    keys: Tensor
    values: Tensor


class CaptionDecoder(nn.Module):
    """Scores the next word of a caption.

    Shapes: B pictures, N grid places, R rows (R = B x captions of each), T words, V vocabulary, H hidden.
    Rows of one picture stand together, so the memory is never repeated for them.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.project = nn.Linear(c.feature_size, c.memory_size)
        self.keys = nn.Linear(c.memory_size, c.memory_size)
        self.values = nn.Linear(c.memory_size, c.memory_size)
        self.query = nn.Linear(c.hidden_size, c.memory_size)
        self.embedding = nn.Embedding(c.vocabulary_size, c.embedding_size)
        rnn = nn.LSTM if c.cell == "lstm" else nn.GRU
        self.rnn = rnn(c.embedding_size, c.hidden_size, batch_first=True)
        self.states = 2 if c.cell == "lstm" else 1
        self.initial = nn.Linear(c.memory_size, self.states * c.hidden_size)
        self.mix = nn.Linear(c.hidden_size + c.memory_size, c.embedding_size)
        self.bias = nn.Parameter(torch.zeros(c.vocabulary_size))
        nn.init.normal_(self.embedding.weight, std=c.embedding_size**-0.5)

    def start(self, features: Tensor) -> tuple[Memory, State]:
        """Look at the pictures once: (B, N, F) -> what `step` needs, the state with one row a picture."""
        places = F.relu(self.project(F.dropout(features, self.config.feature_dropout, self.training)))  # (B, N, M)
        first = torch.tanh(self.initial(places.mean(1))).chunk(self.states, -1)  # (B, H) each
        memory = Memory(self._heads(self.keys(places)), self._heads(self.values(places)))
        return memory, tuple(s.unsqueeze(0).contiguous() for s in first)

    def step(self, words: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read one word a row: (R,) -> log-probabilities of the next (R, V), in nats, and the new state."""
        hidden, state = self._recur(self.embedding(words).unsqueeze(1), state)
        return F.log_softmax(self._score(hidden, memory).squeeze(1).float(), -1), state

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        """Teacher forcing: (B, N, F) and (R, T) -> logits of the word after each (R, T, V)."""
        memory, state = self.start(features)
        captions = words.size(0) // features.size(0)
        state = tuple(s.repeat_interleave(captions, 1) for s in state)
        embedded = _drop_steps_alike(self.embedding(words), self.config.embedding_dropout, self.training)
        hidden, _ = self._recur(embedded, state)
        return self._score(hidden, memory)

    def _recur(self, embedded: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, after = self.rnn(embedded, state if self.config.cell == "lstm" else state[0])
        return hidden, after if self.config.cell == "lstm" else (after,)

    def _score(self, hidden: Tensor, memory: Memory) -> Tensor:
        """States (R, T, H) -> logits (R, T, V)."""
        rows, steps, _ = hidden.shape
        queries = self._heads(self.query(hidden).view(memory.keys.size(0), -1, self.config.memory_size))
        seen = F.scaled_dot_product_attention(queries, memory.keys, memory.values)  # (B, heads, R/B*T, d)
        context = seen.transpose(1, 2).reshape(rows, steps, -1)
        mixed = torch.tanh(self.mix(torch.cat([hidden, context], -1)))
        mixed = _drop_steps_alike(mixed, self.config.output_dropout, self.training)
        return F.linear(mixed, self.embedding.weight, self.bias)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, M) -> (B, heads, L, M / heads)."""
        return x.view(x.size(0), x.size(1), self.config.heads, -1).transpose(1, 2)


def _drop_steps_alike(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout with one mask for all steps of a row (Gal & Ghahramani 2016, arXiv:1512.05287): (R, T, D)."""
    if not training or p == 0:
        return x
    keep: Tensor = x.new_empty(x.size(0), 1, x.size(2)).bernoulli_(1 - p) / (1 - p)
    return x * keep
