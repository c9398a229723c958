"""Decoders: grid features to next-word scores. Three kinds of recurrent network, each with LSTM or GRU cells.

plain: the pooled image is the input before the first word and is not used again (Vinyals et al. 2015,
arXiv:1411.4555).
attention: after each word the decoder attends to the grid, with the new hidden state as the query (Lu et al. 2017,
arXiv:1612.01887, "spatial attention"), with several heads and scaled dot products (Vaswani et al. 2017,
arXiv:1706.03762). The attended features are not fed back into the recurrence, so under teacher forcing a caption needs
one fused RNN call and one attention call.
updown: two recurrent layers, an attention RNN and a language RNN (Anderson et al. 2018, arXiv:1707.07998), over grid
cells instead of detected regions. Each step depends on the attention of the step before, so training runs word by
word, several times slower.

A decoder of any kind may also read concepts, see `captioning.model.concepts`.

To add a kind: write its class here, with `card`, `output_size`, `encode` and `advance`, and enter it into `DECODERS`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the usual name

from captioning.model.concepts import ConceptAttention, Concepts
from captioning.model.vocabulary import PAD
from captioning.values import Cell

State = tuple[Tensor, ...]
"""Recurrent state, (1, R, H) each, R rows: per layer one tensor for a GRU, two for an LSTM."""

Memory = tuple[Tensor, ...]
"""The encoded images, one row per image; for decoders with attention, keys (B, heads, M/heads, N) and values
(B, heads, N, M/heads) first.

The last three are those of the concepts, where the decoder reads them.
"""
_CONCEPT_TENSORS = 3  # of a memory

OF_WORDS = ("embedding.weight", "bias")
"""The weights of a decoder that have a row for each word."""

_SIZE_LIMIT = 1_000_000  # beyond any real model; products of two sizes below it do not overflow
_MOST_CONCEPTS = 100
_SIZES = ("vocabulary_size", "feature_size", "memory_size", "hidden_size", "embedding_size", "heads")
_DROPOUTS = ("concept_dropout", "feature_dropout", "embedding_dropout", "output_dropout")


@dataclass(frozen=True)
class DecoderConfig:
    """The kind and the sizes of a decoder. Raises ValueError for those that no decoder can have."""

    cell: Cell
    vocabulary_size: int
    kind: str = "attention"  # a key of DECODERS
    feature_size: int = 2048  # channels of the encoder's grid
    memory_size: int = 512  # channels of the projected grid, the keys, the values and the attended features
    hidden_size: int = 512  # of the recurrent state
    embedding_size: int = 300  # of a word, as input and as output (tied: Press & Wolf 2017, arXiv:1608.05859)
    heads: int = 8
    concepts: int = 0  # that are read beside the grid, K; 0: none
    concept_dropout: float = 0.2
    feature_dropout: float = 0.3
    embedding_dropout: float = 0.3
    output_dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        for name in _SIZES:
            if not 1 <= getattr(self, name) < _SIZE_LIMIT:
                raise ValueError(f"{name} must be from 1 to {_SIZE_LIMIT - 1}")
        if not 0 <= self.concepts <= _MOST_CONCEPTS:
            raise ValueError(f"concepts must be from 0 to {_MOST_CONCEPTS}")
        for name in _DROPOUTS:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1")
        if self.memory_size % self.heads:
            raise ValueError(f"memory_size {self.memory_size} must be a multiple of heads, {self.heads}")


class CaptionDecoder(nn.Module, ABC):
    """Scores the next word of a caption.

    Shapes: B images, N grid cells, F feature channels, M memory channels, R rows (R = B x captions per image), T words,
    V vocabulary, H hidden, E embedding, K concepts, O output of `advance`, which begins with the hidden state.
    The rows of one image are adjacent, so its memory is not repeated for them.
    """

    card: ClassVar[str]
    """What the model card says of this kind; `{cell}` is replaced by the name of the cell."""

    layers: ClassVar[int] = 1
    """Recurrent layers."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.states = 2 if c.cell == "lstm" else 1
        self.project = nn.Linear(c.feature_size, c.memory_size)
        self.embedding = nn.Embedding(c.vocabulary_size, c.embedding_size)
        self.output_projection = nn.Linear(self.output_size(c), c.embedding_size)
        self.bias = nn.Parameter(torch.zeros(c.vocabulary_size))
        states = self.states * self.layers
        self.concepts = ConceptAttention(c.hidden_size, c.embedding_size, states) if c.concepts else None
        nn.init.normal_(self.embedding.weight, std=c.embedding_size**-0.5)

    @staticmethod
    @abstractmethod
    def output_size(config: DecoderConfig) -> int:
        """Return O, the size of what `advance` returns for each word."""

    @abstractmethod
    def encode(self, features: Tensor) -> tuple[Memory, State]:
        """Encode the grids (B, N, F) -> the memory and the first state, one row per image."""

    @abstractmethod
    def advance(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read embedded words (R, T, E) -> the output after each (R, T, O), and the state after the last."""

    def attention(self, features: Tensor, words: Tensor, concepts: Concepts | None = None) -> Tensor | None:
        """Return the attention after each word, averaged over the heads: (B, N, F) and (B, T) -> (B, T, N).

        None for a decoder that does not attend to the grid word by word.
        """
        return None

    def start(self, features: Tensor, concepts: Concepts | None = None) -> tuple[Memory, State]:
        """Encode the images, once per search: (B, N, F) -> the memory and the first state, one row per image.

        A decoder that reads concepts needs those of the images.
        """
        memory, state = self.encode(features)
        if self.concepts is None:
            return memory, state
        if concepts is None:
            raise ValueError("this decoder reads concepts: give those of the images")
        weights = self._drop_concepts(concepts.weights)
        embedded = self._embed(concepts.words)
        added = self.concepts.first_state(embedded, weights).chunk(len(state), -1)
        state = tuple(s + a.unsqueeze(0).to(s.dtype) for s, a in zip(state, added, strict=True))
        return (*memory, *self.concepts.encode(embedded, weights)), state

    def _embed(self, words: Tensor) -> Tensor:
        """Return the mean embedding of each concept's words: (B, K, L) -> (B, K, E)."""
        counted = (words != PAD).unsqueeze(-1)
        mean: Tensor = (self.embedding(words) * counted).sum(2) / counted.sum(2).clamp(min=1)
        return mean

    @property
    def vector_limit(self) -> float:
        """What no number in the input of `logits` exceeds: 1, and the largest of an embedding if one may be copied."""
        if self.concepts is None:
            return 1.0
        with torch.no_grad():
            return 1 + float(self.concepts.strength.abs() * self.embedding.weight.abs().max())

    def _drop_concepts(self, weights: Tensor) -> Tensor:
        """Leave out some concepts while training, so that captions do not depend on any."""
        if not self.training or not self.config.concept_dropout:
            return weights
        return weights * torch.empty_like(weights).bernoulli_(1 - self.config.concept_dropout)

    def _word_vector(self, output: Tensor, memory: Memory) -> Tensor:
        """Return what is compared with every word's embedding: (R, T, O) -> (R, T, E)."""
        vector: Tensor = torch.tanh(self.output_projection(output))
        if self.concepts is None:
            return vector
        hidden = output[..., : self.config.hidden_size]
        copied: Tensor = self.concepts(hidden, memory[-_CONCEPT_TENSORS:])
        return vector + copied.to(vector.dtype)

    def step(self, words: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read one word per row (R,) -> log-probabilities of the next word (R, V), in nats, and the new state."""
        vector, state = self.read_word(words, state, memory)
        return F.log_softmax(self.logits(vector).float(), -1), state

    def read_word(self, words: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read one word per row (R,) -> the input of `logits` (R, E), and the new state."""
        output, state = self.advance(self.embedding(words).unsqueeze(1), state, memory)
        return self._word_vector(output, memory).squeeze(1), state

    def read(self, features: Tensor, words: Tensor, concepts: Concepts | None = None) -> Tensor:
        """Teacher forcing without the last layer: (B, N, F) and (R, T) -> (R, T, E), the input of `logits`."""
        memory, state = self.start(features, concepts)
        state = tuple(s.repeat_interleave(words.size(0) // features.size(0), 1) for s in state)
        embedded = _drop_channels(self.embedding(words), self.config.embedding_dropout, self.training)
        output, _ = self.advance(embedded, state, memory)
        return _drop_channels(self._word_vector(output, memory), self.config.output_dropout, self.training)

    def logits(self, projected: Tensor) -> Tensor:
        """Score every word: (..., E) -> (..., V). The weights are those of the embedding."""
        return F.linear(projected, self.embedding.weight, self.bias)

    def forward(self, features: Tensor, words: Tensor, concepts: Concepts | None = None) -> Tensor:
        """Teacher forcing: (B, N, F) and (R, T) -> logits of the word after each (R, T, V)."""
        return self.logits(self.read(features, words, concepts))

    def grid(self, features: Tensor) -> Tensor:
        """Project the grid: (B, N, F) -> (B, N, M). Dropout removes a channel from all grid cells at once."""
        return F.relu(self.project(_drop_channels(features, self.config.feature_dropout, self.training)))

    def scale_dropout(self, factor: float) -> None:
        """Multiply all dropout from now on. The weights and the saved config stay as they are."""
        scaled = {name: getattr(self.config, name) * factor for name in _DROPOUTS}
        self.config = replace(self.config, **scaled)

    def rnn_of(self, input_size: int) -> nn.LSTM | nn.GRU:
        """Return one recurrent layer of the chosen cell."""
        layer = nn.LSTM if self.config.cell == "lstm" else nn.GRU
        return layer(input_size, self.config.hidden_size, batch_first=True)


class PlainDecoder(CaptionDecoder):
    """Reads the pooled image once, as the input before the first word."""

    card = "decoder of {cell} cells that sees the pooled image once"

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.rnn = self.rnn_of(config.embedding_size)
        self.norm = nn.LayerNorm(config.memory_size)  # pooled activations are large enough to saturate every gate
        self.image_projection = nn.Linear(config.memory_size, config.embedding_size)

    @staticmethod
    def output_size(config: DecoderConfig) -> int:
        """The output is the hidden state."""
        return config.hidden_size

    def encode(self, features: Tensor) -> tuple[Memory, State]:
        """Read the image into a zero state. The memory is empty."""
        pooled = self.image_projection(self.norm(self.grid(features).mean(1))).unsqueeze(1)  # (B, 1, E)
        zeros = pooled.new_zeros(1, pooled.size(0), self.config.hidden_size)
        return (), _recur(self.rnn, pooled, (zeros,) * self.states)[1]

    def advance(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read words; the image is not needed any more."""
        return _recur(self.rnn, embedded, state)


class _AttentionBase(CaptionDecoder):
    """Multi-head attention over the grid, shared by the decoders that attend."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        c = config
        self.keys = nn.Linear(c.memory_size, c.memory_size)
        self.values = nn.Linear(c.memory_size, c.memory_size)
        self.query = nn.Linear(c.hidden_size, c.memory_size)

    @staticmethod
    def output_size(config: DecoderConfig) -> int:
        """The output is the hidden state and the attended features."""
        return config.hidden_size + config.memory_size

    def encode_memory(self, grid: Tensor) -> Memory:
        """Compute the keys and values of a projected grid (B, N, M), see `Memory`."""
        return self._heads(self.keys(grid)).transpose(-1, -2), self._heads(self.values(grid))

    def attend(self, hidden: Tensor, memory: Memory) -> Tensor:
        """Attend to the grid: hidden states (R, T, H) -> attended features (R, T, M)."""
        rows, steps, _ = hidden.shape
        queries = self._heads(self.query(hidden).view(memory[0].size(0), -1, self.config.memory_size))
        keys, values = memory[:2]
        if steps == 1 and not self.training and hidden.device.type == "cpu":  # the fused one wants many queries
            attended = torch.softmax(queries / queries.size(-1) ** 0.5 @ keys, -1) @ values
        else:
            attended = F.scaled_dot_product_attention(queries, keys.transpose(-1, -2), values)
        # (B, heads, R/B*T, M/heads)
        return attended.transpose(1, 2).reshape(rows, steps, -1)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, M) -> (B, heads, L, M/heads)."""
        return x.view(x.size(0), x.size(1), self.config.heads, -1).transpose(1, 2)


class AttentionDecoder(_AttentionBase):
    """Attends to the grid after every word."""

    card = "decoder of {cell} cells with multi-head attention over the grid"

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.rnn = self.rnn_of(config.embedding_size)
        self.initial = nn.Linear(config.memory_size, self.states * config.hidden_size)

    def encode(self, features: Tensor) -> tuple[Memory, State]:
        """Encode the images. The first state is a projection of the pooled image."""
        grid = self.grid(features)
        first = torch.tanh(self.initial(grid.mean(1))).chunk(self.states, -1)  # (B, H) each
        return self.encode_memory(grid), tuple(s.unsqueeze(0).contiguous() for s in first)

    def advance(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read all words, then attend for all words at once."""
        hidden, state = _recur(self.rnn, embedded, state)
        return torch.cat([hidden, self.attend(hidden, memory)], -1), state

    def attention(self, features: Tensor, words: Tensor, concepts: Concepts | None = None) -> Tensor:
        """Compute the weights of all words at once."""
        memory, state = self.start(features, concepts)
        hidden, _ = _recur(self.rnn, self.embedding(words), state)
        queries = self._heads(self.query(hidden))  # (B, heads, T, M/heads)
        weights = torch.softmax(queries @ memory[0] / queries.size(-1) ** 0.5, -1)
        return weights.mean(1)


class UpDownDecoder(_AttentionBase):
    """Two layers: one computes the attention, the next the word, and its state is an input of the first."""

    layers = 2
    card = "two-layer decoder of {cell} cells with multi-head attention over the grid"

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.attention_rnn = self.rnn_of(config.hidden_size + config.memory_size + config.embedding_size)
        self.language_rnn = self.rnn_of(config.memory_size + config.hidden_size)
        self.initial = nn.Linear(config.memory_size, 2 * self.states * config.hidden_size)

    def encode(self, features: Tensor) -> tuple[Memory, State]:
        """Encode the images. The first states are projections of the pooled image, which the memory also keeps."""
        grid = self.grid(features)
        pooled = grid.mean(1)
        first = torch.tanh(self.initial(pooled)).chunk(2 * self.states, -1)
        return (*self.encode_memory(grid), pooled), tuple(s.unsqueeze(0).contiguous() for s in first)

    def advance(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Read word by word: each layer needs the other's output for the word before."""
        attention, language = state[: self.states], state[self.states :]
        pooled = memory[2].repeat_interleave(embedded.size(0) // memory[2].size(0), 0).unsqueeze(1)
        outputs = []
        for word in torch.split(embedded, 1, 1):
            inputs = torch.cat([language[0].transpose(0, 1), pooled, word], -1)
            hidden, attention = _recur(self.attention_rnn, inputs, attention)
            attended = self.attend(hidden, memory)
            output, language = _recur(self.language_rnn, torch.cat([attended, hidden], -1), language)
            outputs.append(torch.cat([output, attended], -1))
        return torch.cat(outputs, 1), (*attention, *language)


def make_decoder(config: DecoderConfig) -> CaptionDecoder:
    """Return an untrained decoder."""
    return DECODERS[config.kind](config)


def _recur(rnn: nn.LSTM | nn.GRU, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a layer over (R, T, D) -> the hidden state after each step (R, T, H), and the state after the last.

    Under autocast on a CPU, torch leaves the weights in float32, which takes twice as long as weights that are
    converted first (torch 2.14, 320 x 19 words, hidden size 512: LSTM 190 and 91 ms, forward and backward).
    """
    if torch.is_autocast_enabled("cpu") and inputs.device.type == "cpu":
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return _recur_in(dtype, rnn, inputs.to(dtype), tuple(s.to(dtype) for s in state))
    hidden, after = rnn(inputs, state if len(state) == 2 else state[0])
    return hidden, after if isinstance(after, tuple) else (after,)


def _recur_in(dtype: torch.dtype, rnn: nn.LSTM | nn.GRU, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a layer with its weights converted to another type."""
    weights = [w.to(dtype) for w in rnn.all_weights[0]]
    train = torch.is_grad_enabled()
    if isinstance(rnn, nn.LSTM):
        hidden, h, c = torch.lstm(inputs, state, weights, True, 1, 0.0, train, False, True)
        return hidden, (h, c)
    hidden, h = torch.gru(inputs, state[0], weights, True, 1, 0.0, train, False, True)
    return hidden, (h,)


def _drop_channels(x: Tensor, p: float, training: bool) -> Tensor:
    """Apply dropout with one mask for all steps (or grid cells) of a row: (R, T, D).

    Gal & Ghahramani 2016, arXiv:1512.05287.
    """
    if not training or p == 0:
        return x
    keep: Tensor = x.new_empty(x.size(0), 1, x.size(2)).bernoulli_(1 - p) / (1 - p)
    return x * keep


DECODERS: dict[str, type[CaptionDecoder]] = {
    "plain": PlainDecoder,
    "attention": AttentionDecoder,
    "updown": UpDownDecoder,
}
KINDS = tuple(DECODERS)
