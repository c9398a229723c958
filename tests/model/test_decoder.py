"""The decoder says the same whether it reads a sentence at once or a word at a time."""

import pytest
import torch

from captioning.model.decoder import CaptionDecoder, DecoderConfig
from captioning.values import Cell

CELLS: list[Cell] = ["lstm", "gru"]


def small(cell: Cell) -> CaptionDecoder:
    torch.manual_seed(1)
    return CaptionDecoder(
        DecoderConfig(cell, 40, feature_size=24, memory_size=16, hidden_size=20, embedding_size=12, heads=4)
    ).eval()


@pytest.mark.parametrize("cell", CELLS)
def test_one_word_at_a_time_equals_teacher_forcing(cell: Cell) -> None:
    decoder = small(cell)
    features, words = torch.randn(3, 9, 24), torch.randint(0, 40, (6, 7))  # two captions a picture
    at_once = decoder(features, words).log_softmax(-1)
    memory, state = decoder.start(features)
    state = tuple(s.repeat_interleave(2, 1) for s in state)
    for t in range(7):
        step, state = decoder.step(words[:, t], state, memory)
        assert torch.allclose(step, at_once[:, t], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_caption_does_not_depend_on_its_neighbours(cell: Cell) -> None:
    decoder = small(cell)
    features, words = torch.randn(4, 9, 24), torch.randint(0, 40, (4, 5))
    together = decoder(features, words)
    for i in range(4):
        assert torch.allclose(together[i], decoder(features[i : i + 1], words[i : i + 1])[0], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_it_looks_at_the_picture(cell: Cell) -> None:
    decoder = small(cell)
    words = torch.randint(0, 40, (2, 5))
    one, other = decoder(torch.randn(2, 9, 24), words), decoder(torch.randn(2, 9, 24), words)
    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_is_the_same_at_all_steps_of_a_sentence_and_none_in_serving(cell: Cell) -> None:
    decoder = small(cell)
    features, words = torch.randn(2, 9, 24), torch.full((2, 6), 5)
    assert torch.equal(decoder(features, words), decoder(features, words))
    decoder.train()
    assert not torch.equal(decoder(features, words), decoder(features, words))


def test_a_gru_has_one_state_and_an_lstm_two() -> None:
    assert [len(small(cell).start(torch.randn(1, 9, 24))[1]) for cell in CELLS] == [2, 1]
