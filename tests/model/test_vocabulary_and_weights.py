"""Words survive a round trip, and int8 changes weights by half a step at most."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning.errors import BundleError
from captioning.model.vocabulary import END, SPECIAL, UNKNOWN, Vocabulary
from captioning.model.weights import load_weights, save_weights

words = st.text("abcdefg", min_size=1, max_size=3)


@given(captions=st.lists(st.lists(words), min_size=1), min_count=st.integers(1, 3))
def test_known_words_survive_a_round_trip_and_others_become_unknown(captions: list[list[str]], min_count: int) -> None:
    vocabulary = Vocabulary.build(captions, min_count)
    all_words = [word for caption in captions for word in caption]
    known = {word for word in all_words if all_words.count(word) >= min_count}
    assert set(vocabulary.words[len(SPECIAL) :]) == known
    for caption in captions:
        assert vocabulary.decode(vocabulary.encode(w for w in caption if w in known)) == [
            w for w in caption if w in known
        ]
        assert all((i == UNKNOWN) == (w not in known) for i, w in zip(vocabulary.encode(caption), caption, strict=True))


def test_decoding_stops_at_the_end_token() -> None:
    vocabulary = Vocabulary.build([["a", "dog"]], 1)
    assert vocabulary.decode([*vocabulary.encode(["a", "dog"]), END, *vocabulary.encode(["a"])]) == ["a", "dog"]


def test_a_vocabulary_without_special_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin with"):
        Vocabulary(("a", "dog"))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 20), scale=st.floats(1e-4, 1e3))
def test_int8_changes_weights_by_half_a_step_at_most(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, scale: float
) -> None:
    torch.manual_seed(seed)
    weight, bias = scale * torch.randn(rows, 3, 5), torch.randn(7)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights({"w": weight, "b": bias}, path)
    restored = load_weights(path)
    step = weight.flatten(1).abs().amax(1) / 127
    assert ((restored["w"] - weight).flatten(1).abs() <= 0.501 * step[:, None]).all()
    assert torch.equal(restored["b"], bias)


def test_missing_or_damaged_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"x" * 100)
    for name in ("bad", "none"):
        with pytest.raises(BundleError, match="cannot read the weights") as caught:
            load_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
