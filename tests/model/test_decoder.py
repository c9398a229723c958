"""A decoder says the same whether it reads a sentence at once or a word at a time: of each kind, with each cell."""

import pytest
import torch

from captioning.model.decoder import KINDS, AttentionDecoder, CaptionDecoder, DecoderConfig, Kind, make_decoder
from captioning.values import Cell

CELLS: list[Cell] = ["lstm", "gru"]
each = pytest.mark.parametrize(("kind", "cell"), [(kind, cell) for kind in KINDS for cell in CELLS])


def small(kind: Kind, cell: Cell) -> CaptionDecoder:
    torch.manual_seed(1)
    shape = DecoderConfig(cell, 40, kind, feature_size=24, memory_size=16, hidden_size=20, embedding_size=12, heads=4)
    return make_decoder(shape).eval()


@each
def test_one_word_at_a_time_equals_teacher_forcing(kind: Kind, cell: Cell) -> None:
    decoder = small(kind, cell)
    features, words = torch.randn(3, 9, 24), torch.randint(0, 40, (6, 7))  # two captions an image
    at_once = decoder(features, words).log_softmax(-1)
    memory, state = decoder.start(features)
    state = tuple(s.repeat_interleave(2, 1) for s in state)
    for t in range(7):
        step, state = decoder.step(words[:, t], state, memory)
        assert torch.allclose(step, at_once[:, t], atol=1e-5)


@each
def test_a_caption_does_not_depend_on_its_neighbours(kind: Kind, cell: Cell) -> None:
    decoder = small(kind, cell)
    features, words = torch.randn(4, 9, 24), torch.randint(0, 40, (4, 5))
    together = decoder(features, words)
    for i in range(4):
        assert torch.allclose(together[i], decoder(features[i : i + 1], words[i : i + 1])[0], atol=1e-5)


@each
def test_it_looks_at_the_image(kind: Kind, cell: Cell) -> None:
    decoder = small(kind, cell)
    words = torch.randint(0, 40, (2, 5))
    one, other = decoder(torch.randn(2, 9, 24), words), decoder(torch.randn(2, 9, 24), words)
    assert not torch.allclose(one, other, atol=1e-3)


@each
def test_dropout_is_the_same_at_all_steps_of_a_sentence_and_none_in_serving(kind: Kind, cell: Cell) -> None:
    decoder = small(kind, cell)
    features, words = torch.randn(2, 9, 24), torch.full((2, 6), 5)
    assert torch.equal(decoder(features, words), decoder(features, words))
    decoder.train()
    assert not torch.equal(decoder(features, words), decoder(features, words))
    decoder.scale_dropout(0)
    assert torch.equal(decoder(features, words), decoder(features, words))


@each
def test_weights_converted_beforehand_give_what_autocast_gives(kind: Kind, cell: Cell) -> None:
    decoder = small(kind, cell)
    features, words = torch.randn(2, 9, 24), torch.randint(0, 40, (4, 6))
    exact = decoder(features, words)
    with torch.autocast("cpu", torch.bfloat16):
        rough = decoder(features, words)
    assert torch.allclose(rough.float(), exact, atol=0.05)
    rough.float().sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_a_gru_has_one_state_a_layer_and_an_lstm_two() -> None:
    states = [len(small(kind, cell).start(torch.randn(1, 9, 24))[1]) for kind in KINDS for cell in CELLS]
    assert states == [2, 1, 2, 1, 4, 2]


def test_attention_is_a_share_of_each_place() -> None:
    decoder = small("attention", "gru")
    assert isinstance(decoder, AttentionDecoder)
    weights = decoder.attention(torch.randn(2, 9, 24), torch.randint(0, 40, (2, 5)))
    assert weights.shape == (2, 5, 9)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 5))


def test_a_plain_decoder_forgets_where_things_are() -> None:
    """It pools the grid, so the order of the places is nothing to it; attention also knows no order."""
    decoder = small("plain", "lstm")
    features, words = torch.randn(1, 9, 24), torch.randint(0, 40, (1, 5))
    assert torch.allclose(decoder(features, words), decoder(features.flip(1), words), atol=1e-5)
    assert decoder.start(features)[0] == ()
