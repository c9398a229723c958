"""Every kind of decoder, with each cell: one step at a time equals teacher forcing, and more."""

from typing import Any

import pytest
import torch

from captioning.model.decoder import DECODERS, KINDS, AttentionDecoder, CaptionDecoder, DecoderConfig, make_decoder
from captioning.values import Cell

CELLS: list[Cell] = ["lstm", "gru"]
each = pytest.mark.parametrize(("kind", "cell"), [(kind, cell) for kind in KINDS for cell in CELLS])


def small(kind: str, cell: Cell) -> CaptionDecoder:
    torch.manual_seed(1)
    shape = DecoderConfig(cell, 40, kind, feature_size=24, memory_size=16, hidden_size=20, embedding_size=12, heads=4)
    return make_decoder(shape).eval()


@each
def test_step_by_step_equals_teacher_forcing(kind: str, cell: Cell) -> None:
    decoder = small(kind, cell)
    features, words = torch.randn(3, 9, 24), torch.randint(0, 40, (6, 7))  # two captions per image
    at_once = decoder(features, words).log_softmax(-1)
    memory, state = decoder.start(features)
    state = tuple(s.repeat_interleave(2, 1) for s in state)
    for t in range(7):
        step, state = decoder.step(words[:, t], state, memory)
        assert torch.allclose(step, at_once[:, t], atol=1e-5)


@each
def test_a_caption_does_not_depend_on_its_neighbours(kind: str, cell: Cell) -> None:
    decoder = small(kind, cell)
    features, words = torch.randn(4, 9, 24), torch.randint(0, 40, (4, 5))
    together = decoder(features, words)
    for i in range(4):
        assert torch.allclose(together[i], decoder(features[i : i + 1], words[i : i + 1])[0], atol=1e-5)


@each
def test_the_scores_depend_on_the_image(kind: str, cell: Cell) -> None:
    decoder = small(kind, cell)
    words = torch.randint(0, 40, (2, 5))
    one, other = decoder(torch.randn(2, 9, 24), words), decoder(torch.randn(2, 9, 24), words)
    assert not torch.allclose(one, other, atol=1e-3)


@each
def test_dropout_is_active_in_training_only_and_can_be_scaled_to_zero(kind: str, cell: Cell) -> None:
    decoder = small(kind, cell)
    features, words = torch.randn(2, 9, 24), torch.full((2, 6), 5)
    assert torch.equal(decoder(features, words), decoder(features, words))
    decoder.train()
    assert not torch.equal(decoder(features, words), decoder(features, words))
    decoder.scale_dropout(0)
    assert torch.equal(decoder(features, words), decoder(features, words))


@each
def test_bf16_autocast_is_close_to_fp32_and_reaches_every_weight(kind: str, cell: Cell) -> None:
    decoder = small(kind, cell)
    features, words = torch.randn(2, 9, 24), torch.randint(0, 40, (4, 6))
    exact = decoder(features, words)
    with torch.autocast("cpu", torch.bfloat16):
        approximate = decoder(features, words)
    assert torch.allclose(approximate.float(), exact, atol=0.05)
    approximate.float().sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_a_gru_has_one_state_per_layer_and_an_lstm_two() -> None:
    states = {(kind, cell): small(kind, cell).start(torch.randn(1, 9, 24))[1] for kind in KINDS for cell in CELLS}
    layers = {"plain": 1, "attention": 1, "updown": 2}
    for kind, count in layers.items():
        assert len(states[kind, "gru"]) == count
        assert len(states[kind, "lstm"]) == 2 * count


def test_attention_weights_sum_to_one_over_the_grid() -> None:
    decoder = small("attention", "gru")
    assert isinstance(decoder, AttentionDecoder)
    weights = decoder.attention(torch.randn(2, 9, 24), torch.randint(0, 40, (2, 5)))
    assert weights.shape == (2, 5, 9)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 5))


def test_a_plain_decoder_does_not_depend_on_the_order_of_grid_cells() -> None:
    """It pools the grid."""
    decoder = small("plain", "lstm")
    features, words = torch.randn(1, 9, 24), torch.randint(0, 40, (1, 5))
    assert torch.allclose(decoder(features, words), decoder(features.flip(1), words), atol=1e-5)
    assert decoder.start(features)[0] == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "transformer"}, "kind must be one of plain, .*, not 'transformer'"),
        ({"heads": 3}, "memory_size 512 must be a multiple of heads, 3"),
        ({"hidden_size": 0}, "hidden_size must be from 1 to 999999"),
        ({"output_dropout": 1.0}, "output_dropout must be at least 0 and less than 1"),
    ],
)
def test_an_impossible_config_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderConfig("lstm", 40, **changes)


def test_every_kind_has_a_line_for_the_model_card() -> None:
    for decoder in DECODERS.values():
        assert "LSTM cells" in decoder.card.format(cell="LSTM")
