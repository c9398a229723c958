"""The search that captioners run finds what the plain one finds, for decoders of every kind."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captioning.bundles import find_bundles
from captioning.model.beam import BeamResult
from captioning.model.captioner import Captioner
from captioning.model.concepts import Concepts
from captioning.model.decoder import KINDS, CaptionDecoder, DecoderConfig, make_decoder
from captioning.model.gender import FEMALE, MALE, NEUTRAL, NeutralWords
from captioning.model.pixels import Limits, open_image
from captioning.model.repeats import said_once
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.model.search import layers
from captioning.model.search.best_words import BLOCK, best_words
from captioning.model.search.captions import CaptionSearch
from captioning.model.search.layers import PreparedLinear, PreparedRecurrence, fastest_precision
from captioning.model.search.rules import NeutralGroups
from captioning.model.vocabulary import PAD, Vocabulary
from captioning.values import Cell, DecodeOptions
from tests.support.plain_search import PlainSearch, same_hypotheses

PEOPLE = [word for words in (*MALE, *FEMALE) for word in words] + list(NEUTRAL)
OTHERS = ["a", "on", "the", "with", "red", "dog", "dogs", "ball", "grass", "ice", "cream", "runs", "sits", "blue"]
VOCABULARY = Vocabulary.build([PEOPLE + OTHERS], 1)
needs_int8 = pytest.mark.skipif(fastest_precision("cpu") != "int8", reason="this CPU has no VNNI")


def decoder_of(kind: str, cell: Cell, concepts: int, seed: int, words: int = len(VOCABULARY)) -> CaptionDecoder:
    """Return a small decoder that is sure of its words, so that rounding decides between few of them."""
    torch.manual_seed(seed)
    config = DecoderConfig(cell, words, kind, 12, 16, 24, 10, 2, concepts)
    decoder = make_decoder(config).eval().requires_grad_(False)
    nn.init.normal_(decoder.embedding.weight)
    nn.init.normal_(decoder.bias)
    nn.init.normal_(decoder.output_projection.weight, std=0.5)
    return decoder


def inputs_of(images: int, concepts: int, seed: int) -> tuple[Tensor, Concepts | None, Tensor]:
    """Return features (B, N, F), concepts, and the ids of excluded words (B, V), PAD for none: of one image, none."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, 5, 12, generator=generator)
    is_excluded = torch.rand(images, len(VOCABULARY), generator=generator) < 0.2
    is_excluded[0] = False
    excluded = torch.arange(len(VOCABULARY)).where(is_excluded, PAD)
    if not concepts:
        return features, None, excluded
    words = torch.randint(4, len(VOCABULARY), (images, concepts, 2), generator=generator)
    words[:, 0, 1] = PAD
    weights = torch.rand(images, concepts, generator=generator)
    weights[:, -1] = 0
    return features, Concepts(words, weights), excluded


def searches(decoder: CaptionDecoder, share: float = 0.8) -> tuple[CaptionSearch, PlainSearch]:
    neutral = NeutralWords.of(VOCABULARY, share)
    return CaptionSearch.of(decoder, VOCABULARY, neutral, "fp32"), PlainSearch(decoder, said_once(VOCABULARY), neutral)


options_drawn = st.builds(
    DecodeOptions,
    beam_size=st.sampled_from([1, 3, 5]),
    max_words=st.integers(4, 9),
    min_words=st.integers(0, 4),
    length_power=st.sampled_from([0.0, 0.7, 1.0]),
)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS), cell=st.sampled_from(["lstm", "gru"]), concepts=st.sampled_from([0, 3]),
    options=options_drawn, seed=st.integers(0, 10_000), with_rules=st.booleans(), images=st.integers(1, 6),
)  # fmt: skip
@torch.inference_mode()
def test_it_finds_what_the_plain_search_finds(
    kind: str, cell: Cell, concepts: int, options: DecodeOptions, seed: int, with_rules: bool, images: int
) -> None:
    fast, plain = searches(decoder_of(kind, cell, concepts, seed))
    features, read, excluded = inputs_of(images, concepts, seed)
    if not with_rules:
        fast, plain = replace(fast, once=None, neutral=None), replace(plain, once=None, neutral=None)
    given = (features, read, excluded if with_rules else None, options)
    assert same_hypotheses(fast.begin(*given).best(), plain.begin(*given).best()).all()


@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS), cell=st.sampled_from(["lstm", "gru"]), concepts=st.sampled_from([0, 3]),
    options=options_drawn, seed=st.integers(0, 10_000), length=st.integers(1, 3),
)  # fmt: skip
@torch.inference_mode()
def test_with_a_phrase_it_finds_what_the_plain_search_finds(
    kind: str, cell: Cell, concepts: int, options: DecodeOptions, seed: int, length: int
) -> None:
    fast, plain = searches(decoder_of(kind, cell, concepts, seed))
    given = (*inputs_of(5, concepts, seed), options)
    phrases = torch.randperm(len(VOCABULARY) - 4)[: 3 * length * 2].view(3, length, 2) + 4
    phrases[0, :, 1] = PAD  # a word without a plural
    phrases[1, : length - 1] = PAD  # a phrase of one word
    found, expected = (search.begin(*given).with_phrases([0, 2, 4], phrases) for search in (fast, plain))
    assert same_hypotheses(found, expected).all()


@torch.inference_mode()
def test_a_large_vocabulary_is_searched_block_by_block() -> None:
    decoder = decoder_of("attention", "gru", 0, 1, words=9 * BLOCK + 5)
    once = torch.rand(9 * BLOCK + 5) < 0.5
    vocabulary = Vocabulary.build([[f"w{i}" for i in range(9 * BLOCK + 1)]], 1)
    fast = replace(CaptionSearch.of(decoder, vocabulary, None, "fp32"), once=once)
    given = (torch.randn(20, 5, 12), None, None, DecodeOptions())
    expected = PlainSearch(decoder, once, None).begin(*given).best()
    assert same_hypotheses(fast.begin(*given).best(), expected).all()


@given(seed=st.integers(0, 10_000), count=st.integers(1, 8), blocks=st.integers(1, 12), extra=st.sampled_from([0, 7]))
def test_the_best_words_are_those_of_a_sorted_row(seed: int, count: int, blocks: int, extra: int) -> None:
    scores = torch.randn(4, blocks * BLOCK + extra, generator=torch.Generator().manual_seed(seed))
    scores[0, 5:] = float("-inf")
    best, columns = best_words(scores, count)
    assert torch.equal(best, scores.topk(count).values)
    assert torch.equal(scores.gather(1, columns), best)


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.5, 0.8, 1.0]))
def test_all_neutral_groups_at_once_are_those_one_after_another(seed: int, share: float) -> None:
    logp = (3 * torch.randn(7, len(VOCABULARY), generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    neutral = NeutralWords.of(VOCABULARY, share)
    changed = logp.clone()
    NeutralGroups(neutral, logp.device).apply(changed)
    assert torch.allclose(changed, neutral.apply(logp), atol=1e-5)


def assert_same_alone_and_together(search: CaptionSearch, concepts: int) -> None:
    features, read, excluded = inputs_of(9, concepts, 3)
    options = DecodeOptions(max_words=8)
    together = search.begin(features, read, excluded, options).best()
    for i in range(len(features)):
        own = None if read is None else Concepts(*(part[i : i + 1] for part in read))
        alone = search.begin(features[i : i + 1], own, excluded[i : i + 1], options).best()
        row = BeamResult(*(part[i : i + 1] for part in (together.words, together.log_probabilities, together.scores)))
        assert same_hypotheses(alone, row).all()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_an_image_gets_the_same_caption_alone_and_among_others(kind: str, precision: layers.SearchPrecision) -> None:
    neutral = NeutralWords.of(VOCABULARY, 0.8)
    search = CaptionSearch.of(decoder_of(kind, "lstm", 3, 2), VOCABULARY, neutral, precision)
    assert_same_alone_and_together(search, 3)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=needs_int8)])
@torch.inference_mode()
def test_an_image_without_numbers_changes_no_other_and_has_no_words(precision: layers.SearchPrecision) -> None:
    search = CaptionSearch.of(decoder_of("attention", "gru", 3, 4), VOCABULARY, None, precision)
    features, concepts, _ = inputs_of(4, 3, 4)
    whole = search.begin(features, concepts, None, DecodeOptions()).best()
    features[1, 2, 3] = float("nan")
    found = search.begin(features, concepts, None, DecodeOptions()).best()
    assert VOCABULARY.decode(found.words[1, 0].tolist()) == []
    assert found.scores[1, 0].isnan()
    assert same_hypotheses(found, whole)[[0, 2, 3]].all()


@torch.inference_mode()
def test_several_threads_may_search_at_once() -> None:
    search, _ = searches(decoder_of("updown", "lstm", 3, 5))
    given = [(*inputs_of(4, 3, seed), DecodeOptions(max_words=8)) for seed in range(12)]

    @torch.inference_mode()
    def found(number: int) -> BeamResult:
        return search.begin(*given[number]).best()

    expected = [found(i) for i in range(len(given))]
    with ThreadPoolExecutor(4) as threads:
        for one, other in zip(threads.map(found, range(len(given))), expected, strict=True):
            assert torch.equal(one.words, other.words)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU])
@torch.inference_mode()
def test_a_prepared_recurrent_layer_computes_what_the_layer_does(make: type[nn.LSTM] | type[nn.GRU]) -> None:
    torch.manual_seed(0)
    layer, words = make(6, 8, batch_first=True), torch.randn(5, 1, 6)
    first = torch.rand(1, 5, 8)
    state = (first, torch.rand(1, 5, 8)) if make is nn.LSTM else first
    for precision, tolerance in (("fp32", 1e-6), ("int8", 0.02)):
        if precision == "int8" and fastest_precision("cpu") != "int8":
            continue
        hidden, after = PreparedRecurrence(layer, precision)(words, state)
        expected, expected_after = layer(words, state)
        assert torch.allclose(hidden, expected, atol=tolerance)
        for one, other in zip(after, expected_after, strict=True):
            assert torch.allclose(one, other, atol=tolerance)


@needs_int8
@torch.inference_mode()
def test_a_linear_layer_in_int8_is_off_by_less_than_a_fiftieth_of_its_largest_output() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(300, 500)
    x = torch.randn(40, 300) * torch.logspace(-3, 3, 40).unsqueeze(1)  # rows of very different sizes
    exact = layer(x) - layer.bias
    off = (PreparedLinear(layer)(x) - layer.bias - exact).abs().amax(1)
    assert (off < 0.02 * exact.abs().amax(1)).all()


def test_a_torch_without_int8_multiplication_is_not_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    monkeypatch.setattr(layers, "_int8", refuse)
    assert fastest_precision("cpu") == "fp32"
    assert "captions take longer: no such operator" in caplog.text
    assert fastest_precision("cuda:0") == "fp32"


def features_of(captioner: Captioner, files: list[Path]) -> Iterator[Tensor]:
    size = captioner.preprocessing.size
    for start in range(0, len(files), 32):
        pixels = [open_image(path.read_bytes(), size, Limits())[0] for path in files[start : start + 32]]
        yield captioner.encode(torch.from_numpy(np.stack(pixels)))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_built_in_models_write_the_captions_of_the_plain_search(name: str, photographs: Path) -> None:
    """On ten photographs; on those of the folder CAPTIONING_TEST_IMAGES where it is set."""
    folder = Path(os.environ.get("CAPTIONING_TEST_IMAGES", photographs))
    files = sorted(folder.iterdir())[:200]
    captioner = replace(load_captioner(find_bundles()[name], choose_runtime("torch", "cpu")), search_precision="fp32")
    plain = replace(captioner)
    plain.__dict__["_search"] = PlainSearch(captioner.decoder, said_once(captioner.vocabulary), captioner.neutral)
    same = 0
    with torch.inference_mode():
        for features in features_of(captioner, files):
            found, expected = (c.caption_features(features, DecodeOptions()) for c in (captioner, plain))
            same += sum(one.text == other.text for one, other in zip(found, expected, strict=True))
    assert same >= 0.99 * len(files)
