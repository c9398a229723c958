"""Grid features to next-word scores: recurrent decoders of three kinds, each with LSTM or GRU cells.

plain: the pooled image is the first "word" and is never seen again (Vinyals et al. 2015, arXiv:1411.4555).
attention: every word looks at the grid from the state after it was read (Lu et al. 2017, arXiv:1612.01887,
"spatial attention"), with several heads and scaled dot products (Vaswani et al. 2017, arXiv:1706.03762). Nothing
of the image flows back into the recurrence, so a known sentence is one fused RNN call and one attention.
updown: two layers, one that decides where to look and one that speaks (Anderson et al. 2018, arXiv:1707.07998),
over grid places instead of detected regions. What was said steers where to look next, so training goes word by
word, several times as slow.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, torch's own habit

from captioning.values import Cell

Kind = Literal["plain", "attention", "updown"]
KINDS: tuple[Kind, ...] = ("plain", "attention", "updown")

State = tuple[Tensor, ...]
"""(1, R, H) each, R = rows: per layer, one tensor for a GRU, two for an LSTM."""

Memory = tuple[Tensor, ...]
"""A batch of images, ready to be looked at, one row each: keys and values (B, heads, N, memory/heads) first."""


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder."""

    cell: Cell
    vocabulary_size: int
    kind: Kind = "attention"
    feature_size: int = 2048  # channels of a grid place
    memory_size: int = 512  # of a grid place once projected; keys, values and context too
    hidden_size: int = 512  # of the recurrent state
    embedding_size: int = 300  # of a word, in and out (tied, Press & Wolf 2017, arXiv:1608.05859)
    heads: int = 8
    feature_dropout: float = 0.3
    embedding_dropout: float = 0.3
    output_dropout: float = 0.5

    def __post_init__(self) -> None:
        sizes = (self.vocabulary_size, self.feature_size, self.memory_size, self.hidden_size, self.embedding_size)
        if min(*sizes, self.heads) < 1:
            raise ValueError("a decoder's sizes begin at 1")
        if self.memory_size % self.heads:
            raise ValueError(f"{self.heads} heads can't share a memory of {self.memory_size}")


class CaptionDecoder(nn.Module, ABC):
    """Scores the next word of a caption.

    Shapes: B images, N grid places, R rows (R = B x captions of each), T words, V vocabulary, H hidden,
    E embedding. Rows of one image stand together, so the memory is never repeated for them.
    """

    def __init__(self, config: DecoderConfig, spoken_size: int) -> None:
        super().__init__()
        self.config = c = config
        self.states = 2 if c.cell == "lstm" else 1
        self.project = nn.Linear(c.feature_size, c.memory_size)
        self.embedding = nn.Embedding(c.vocabulary_size, c.embedding_size)
        self.mix = nn.Linear(spoken_size, c.embedding_size)
        self.bias = nn.Parameter(torch.zeros(c.vocabulary_size))
        nn.init.normal_(self.embedding.weight, std=c.embedding_size**-0.5)

    @abstractmethod
    def start(self, features: Tensor) -> tuple[Memory, State]:
        """Look at the images once: (B, N, F) -> what `step` needs, the state with one row an image."""

    @abstractmethod
    def advance(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read words (R, T, E) -> what is to be said after each (R, T, spoken_size), and the state after the last."""

    def step(self, words: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read one word a row: (R,) -> log-probabilities of the next (R, V), in nats, and the new state."""
        said, state = self.advance(self.embedding(words).unsqueeze(1), state, memory)
        return F.log_softmax(self.spell(torch.tanh(self.mix(said))).squeeze(1).float(), -1), state

    def read(self, features: Tensor, words: Tensor) -> Tensor:
        """Teacher forcing: (B, N, F) and (R, T) -> (R, T, E), which `spell` turns into scores."""
        memory, state = self.start(features)
        state = tuple(s.repeat_interleave(words.size(0) // features.size(0), 1) for s in state)
        embedded = _drop_steps_alike(self.embedding(words), self.config.embedding_dropout, self.training)
        said, _ = self.advance(embedded, state, memory)
        return _drop_steps_alike(torch.tanh(self.mix(said)), self.config.output_dropout, self.training)

    def spell(self, mixed: Tensor) -> Tensor:
        """(..., E) -> logits (..., V)."""
        return F.linear(mixed, self.embedding.weight, self.bias)

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        """Teacher forcing: (B, N, F) and (R, T) -> logits of the word after each (R, T, V)."""
        return self.spell(self.read(features, words))

    def places(self, features: Tensor) -> Tensor:
        """Grid places as the decoder sees them: (B, N, F) -> (B, N, M). Dropout takes a channel from all places."""
        return F.relu(self.project(_drop_steps_alike(features, self.config.feature_dropout, self.training)))

    def scale_dropout(self, share: float) -> None:
        """Multiply all dropout from here on; weights and what is saved of the shape stay as they are."""
        c = self.config
        drops = {name: getattr(c, name) * share for name in ("feature_dropout", "embedding_dropout", "output_dropout")}
        self.config = replace(c, **drops)

    def rnn_of(self, input_size: int) -> nn.LSTM | nn.GRU:
        """Return one recurrent layer of the chosen cell."""
        kind = nn.LSTM if self.config.cell == "lstm" else nn.GRU
        return kind(input_size, self.config.hidden_size, batch_first=True)


class PlainDecoder(CaptionDecoder):
    """Sees the pooled image once, as the word before the first."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.rnn = self.rnn_of(config.embedding_size)
        self.level = nn.LayerNorm(config.memory_size)  # pooled activations are large enough to saturate every gate
        self.image = nn.Linear(config.memory_size, config.embedding_size)

    def start(self, features: Tensor) -> tuple[Memory, State]:
        """Read the image into an empty state; there is nothing to look at afterwards."""
        pooled = self.image(self.level(self.places(features).mean(1))).unsqueeze(1)  # (B, 1, E)
        nothing = pooled.new_zeros(1, pooled.size(0), self.config.hidden_size)
        return (), _recur(self.rnn, pooled, (nothing,) * self.states)[1]

    def advance(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read words; the state is all there is to say."""
        return _recur(self.rnn, embedded, state)


class _LookingDecoder(CaptionDecoder):
    """Has keys and values of the grid, and looks at them with several heads."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config, config.hidden_size + config.memory_size)
        c = config
        self.keys = nn.Linear(c.memory_size, c.memory_size)
        self.values = nn.Linear(c.memory_size, c.memory_size)
        self.query = nn.Linear(c.hidden_size, c.memory_size)

    def remember(self, places: Tensor) -> Memory:
        return self._heads(self.keys(places)), self._heads(self.values(places))

    def look(self, hidden: Tensor, memory: Memory) -> Tensor:
        """States (R, T, H) -> what they see (R, T, M)."""
        rows, steps, _ = hidden.shape
        queries = self._heads(self.query(hidden).view(memory[0].size(0), -1, self.config.memory_size))
        seen = F.scaled_dot_product_attention(queries, memory[0], memory[1])  # (B, heads, R/B*T, d)
        return seen.transpose(1, 2).reshape(rows, steps, -1)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, M) -> (B, heads, L, M / heads)."""
        return x.view(x.size(0), x.size(1), self.config.heads, -1).transpose(1, 2)


class AttentionDecoder(_LookingDecoder):
    """Looks at the grid after every word."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.rnn = self.rnn_of(config.embedding_size)
        self.initial = nn.Linear(config.memory_size, self.states * config.hidden_size)

    def start(self, features: Tensor) -> tuple[Memory, State]:
        """Begin with a state made of the pooled image."""
        places = self.places(features)
        first = torch.tanh(self.initial(places.mean(1))).chunk(self.states, -1)  # (B, H) each
        return self.remember(places), tuple(s.unsqueeze(0).contiguous() for s in first)

    def advance(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read words, then look, all words at once."""
        hidden, state = _recur(self.rnn, embedded, state)
        return torch.cat([hidden, self.look(hidden, memory)], -1), state

    def attention(self, features: Tensor, words: Tensor) -> Tensor:
        """Return where each word's successor was looked for: (B, N, F) and (B, T) -> (B, T, N), a mean over heads."""
        memory, state = self.start(features)
        hidden, _ = _recur(self.rnn, self.embedding(words), state)
        queries = self._heads(self.query(hidden))  # (B, heads, T, d)
        weights = torch.softmax(queries @ memory[0].transpose(-1, -2) / queries.size(-1) ** 0.5, -1)
        return weights.mean(1)


class UpDownDecoder(_LookingDecoder):
    """One layer decides where to look, the next says what is there and tells the first."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.attend = self.rnn_of(config.hidden_size + config.memory_size + config.embedding_size)
        self.speak = self.rnn_of(config.memory_size + config.hidden_size)
        self.initial = nn.Linear(config.memory_size, 2 * self.states * config.hidden_size)

    def start(self, features: Tensor) -> tuple[Memory, State]:
        """Begin with states made of the pooled image, which the first layer goes on seeing."""
        places = self.places(features)
        pooled = places.mean(1)
        first = torch.tanh(self.initial(pooled)).chunk(2 * self.states, -1)
        return (*self.remember(places), pooled), tuple(s.unsqueeze(0).contiguous() for s in first)

    def advance(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Word by word: each layer needs what the other made of the word before."""
        looking, speaking = state[: self.states], state[self.states :]
        pooled = memory[2].repeat_interleave(embedded.size(0) // memory[2].size(0), 0).unsqueeze(1)
        said = []
        for word in torch.split(embedded, 1, 1):
            hidden, looking = _recur(self.attend, torch.cat([speaking[0].transpose(0, 1), pooled, word], -1), looking)
            context = self.look(hidden, memory)
            spoken, speaking = _recur(self.speak, torch.cat([context, hidden], -1), speaking)
            said.append(torch.cat([spoken, context], -1))
        return torch.cat(said, 1), (*looking, *speaking)


def make_decoder(config: DecoderConfig) -> CaptionDecoder:
    """Return an untrained decoder of the kind that the config names."""
    kinds: dict[Kind, Callable[[DecoderConfig], CaptionDecoder]]
    kinds = {"plain": PlainDecoder, "attention": AttentionDecoder, "updown": UpDownDecoder}
    return kinds[config.kind](config)


def _recur(rnn: nn.LSTM | nn.GRU, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """Read (R, T, D) from a state -> the hidden state after each word (R, T, H), and the state after the last.

    Under autocast on a CPU torch leaves the weights in float32 and runs twice as long as with weights converted
    beforehand (torch 2.15, 320 x 19 words into 512: LSTM 190 and 91 ms forward and backward).
    """
    if torch.is_autocast_enabled("cpu") and inputs.device.type == "cpu":
        kind = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return _fused(rnn, inputs.to(kind), tuple(s.to(kind) for s in state), kind)
    return _fused(rnn, inputs, state, None)


def _fused(rnn: nn.LSTM | nn.GRU, inputs: Tensor, state: State, kind: torch.dtype | None) -> tuple[Tensor, State]:
    if kind is not None:
        weights = [w.to(kind) for w in rnn.all_weights[0]]
        learns = torch.is_grad_enabled()
        if isinstance(rnn, nn.LSTM):
            hidden, h, c = torch.lstm(inputs, state, weights, True, 1, 0.0, learns, False, True)
            return hidden, (h, c)
        hidden, h = torch.gru(inputs, state[0], weights, True, 1, 0.0, learns, False, True)
        return hidden, (h,)
    hidden, after = rnn(inputs, state if isinstance(rnn, nn.LSTM) else state[0])
    return hidden, after if isinstance(rnn, nn.LSTM) else (after,)


def _drop_steps_alike(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout with one mask for all steps (or places) of a row (Gal & Ghahramani 2016, arXiv:1512.05287): (R, T, D)."""
    if not training or p == 0:
        return x
    keep: Tensor = x.new_empty(x.size(0), 1, x.size(2)).bernoulli_(1 - p) / (1 - p)
    return x * keep
