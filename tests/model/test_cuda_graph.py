"""Searches by recorded steps find what they find without. The recorder here runs the steps again, on the CPU."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning.model.beam import BeamResult
from captioning.model.compiled_encoder import COMPILING
from captioning.model.decoder import KINDS
from captioning.model.search import cuda_graph
from captioning.model.search.beam import Open
from captioning.model.search.captions import CaptionSearch
from captioning.model.search.cuda_graph import GraphLoop, Replay
from captioning.model.vocabulary import PAD
from captioning.values import DecodeOptions
from tests.model.test_search import VOCABULARY, decoder_of, inputs_of, options_drawn, searches
from tests.support.eager_recorder import EagerRecorder
from tests.support.plain_search import same_hypotheses

OPTIONS = DecodeOptions(max_words=9)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "BUCKETS", (2, 4, 8))


def found(search: CaptionSearch, images: int, seed: int, options: DecodeOptions = OPTIONS) -> list[BeamResult]:
    """Return what both searches find for some images, the second with phrases of two words."""
    batch = search.begin(*inputs_of(images, 3, seed), options)
    phrases = torch.randperm(len(VOCABULARY) - 4, generator=torch.Generator().manual_seed(seed))[:4].view(1, 2, 2) + 4
    phrases[0, 0, 1] = PAD
    return [batch.best(), batch.with_phrases([images - 1], phrases)]


def assert_same(one: list[BeamResult], other: list[BeamResult]) -> None:
    assert all(same_hypotheses(*results).all() for results in zip(one, other, strict=True))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS), options=options_drawn,
    batches=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 10_000)), min_size=1, max_size=4),
)  # fmt: skip
@torch.inference_mode()
def test_batches_of_all_sizes_get_the_same_captions_by_recorded_steps(
    kind: str, options: DecodeOptions, batches: list[tuple[int, int]]
) -> None:
    plain, _ = searches(decoder_of(kind, "lstm", 3, 1))
    recorded = replace(plain, loop=GraphLoop(EagerRecorder()))
    for images, seed in batches:
        assert_same(found(recorded, images, seed, options), found(plain, images, seed, options))


@torch.inference_mode()
def test_a_search_is_recorded_once_for_a_bucket_of_sizes() -> None:
    plain, _ = searches(decoder_of("attention", "gru", 3, 1))
    recorder = EagerRecorder()
    recorded = replace(plain, loop=GraphLoop(recorder))
    found(recorded, 3, 1)
    once = recorder.recorded
    assert once == 2 * 3  # ten steps, four of them in a recording, of two searches
    found(recorded, 4, 2)
    assert recorder.recorded == once
    found(recorded, 5, 2)
    assert recorder.recorded == once + 3  # the second search has one image as before


@torch.inference_mode()
def test_a_result_stays_when_the_next_batch_is_searched() -> None:
    plain, _ = searches(decoder_of("attention", "gru", 3, 1))
    recorded = replace(plain, loop=GraphLoop(EagerRecorder()))
    first = found(recorded, 4, 1)
    found(recorded, 4, 2)
    assert_same(first, found(plain, 4, 1))


@dataclass
class Failing:
    """A recorder that fails as a GPU does."""

    fail: Callable[[], None]
    attempts: int = 0

    def record(self, run: Callable[[], Open]) -> tuple[Replay, Open]:
        self.attempts += 1
        self.fail()
        return EagerRecorder().record(run)


def not_permitted() -> None:
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")


@torch.inference_mode()
def test_where_steps_cannot_be_recorded_one_line_says_so_and_the_search_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, _ = searches(decoder_of("attention", "gru", 3, 1))
    recorder = Failing(not_permitted)
    recorded = replace(plain, loop=GraphLoop(recorder))
    for seed in (1, 2):
        assert_same(found(recorded, 4, seed), found(plain, 4, seed))
    assert recorder.attempts == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        "CUDA graphs do not work here, so captions take longer:"
        " CUDA error: operation not permitted when stream is capturing"
    )


def out_of_memory_and_a_broken_capture() -> None:
    try:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    finally:
        not_permitted()


@torch.inference_mode()
def test_too_little_memory_for_a_recording_is_that_and_a_smaller_batch_is_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, _ = searches(decoder_of("attention", "gru", 3, 1))
    recorder = Failing(out_of_memory_and_a_broken_capture)
    recorded = replace(plain, loop=GraphLoop(recorder))
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        found(recorded, 8, 1)
    recorder.fail = lambda: None
    assert_same(found(recorded, 4, 1), found(plain, 4, 1))
    assert recorder.attempts > 1
    assert not caplog.records


@torch.inference_mode()
def test_nothing_is_recorded_while_the_encoder_is_compiled() -> None:
    plain, _ = searches(decoder_of("attention", "gru", 3, 1))
    recorder = EagerRecorder()
    recorded = replace(plain, loop=GraphLoop(recorder))
    with COMPILING:
        assert_same(found(recorded, 4, 1), found(plain, 4, 1))
        assert recorder.recorded == 0
    assert_same(found(recorded, 4, 1), found(plain, 4, 1))
    assert recorder.recorded > 0
