"""Replays the steps of a search on a GPU as CUDA graphs: one launch for four words instead of hundreds.

A graph has fixed shapes, so there is one for each bucket of batch sizes, made when it is first needed; a smaller batch
is filled up with copies of its first image. Steps of a search have no shape that depends on a value
(`captioning.model.search.beam.advanced`), so they can be recorded as they are.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from captioning.model.compiled_encoder import COMPILING
from captioning.model.search.beam import Advance, AreOver, Hypotheses, Open, searched_images
from captioning.model.search.rules import Rules

log = logging.getLogger(__name__)

BUCKETS = (32, 64, 128, 256, 512)
WORDS = 4  # of one graph: after each the GPU is asked whether all captions have ended
_MOST_RECORDED = 32  # searches: buckets, lengths of phrases and options; then all are made again
_WARM_UP = 2  # runs before a recording, in which libraries allocate what they keep

Replay = Callable[[], object]


class Recorder(Protocol):
    """Records functions that read and write tensors, so that they can be run again."""

    def record(self, run: Callable[[], Open]) -> tuple[Replay, Open]:
        """Run a function; return what runs it again, and its result, of which a replay overwrites the tensors."""
        ...


class CudaRecorder:
    """Records CUDA graphs. All share the memory of what they compute in between, so none may run beside another."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._pool: Any = None  # a handle, which has a type of its own in each version of torch

    def record(self, run: Callable[[], Open]) -> tuple[Replay, Open]:
        """Run a function on a stream of its own, then capture it."""
        with torch.cuda.device(self._device):
            return self._captured(run)

    def _captured(self, run: Callable[[], Open]) -> tuple[Replay, Open]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):  # decoding goes on meanwhile
            result = run()
        graph.replay()  # a capture computes nothing, and what is recorded next reads the result
        return graph.replay, result


@dataclass
class GraphLoop:
    """`searched_images` by recorded steps, and as usual where they cannot be recorded. One search at a time."""

    recorder: Recorder
    _recorded: dict[object, "RecordedSearch"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _has_failed: bool = False

    def __call__(self, begun: Open, advance: Advance, are_over: AreOver, rules: Rules) -> Hypotheses:
        """Search captions of B images. `advance` and `are_over` must be the same for the same shapes and options."""
        images = len(begun.images)
        bucket = next((size for size in BUCKETS if size >= images), None)
        if bucket is not None and not self._has_failed:
            with self._lock:
                filled = begun if bucket == images else _filled(begun, bucket)
                search = self._search_like(filled, advance, rules)
                if search is not None:
                    found = search.replay(filled, are_over).hypotheses
                    return Hypotheses(*(part[:images].clone() for part in found))  # the next search overwrites them
        return searched_images(begun, advance, are_over, rules)

    def _search_like(self, begun: Open, advance: Advance, rules: Rules) -> "RecordedSearch | None":
        """Return the recorded search for such images, None while there cannot be one. Raises OutOfMemoryError."""
        key = _shapes(begun), rules.options
        if key not in self._recorded:
            if not COMPILING.acquire(blocking=False):
                return None
            try:
                if len(self._recorded) >= _MOST_RECORDED:
                    self._recorded.clear()
                self._recorded[key] = RecordedSearch(self.recorder, begun, advance, rules.options.max_words + 1)
            except RuntimeError as error:
                if _is_out_of_memory(error):
                    self._recorded.clear()
                    raise torch.OutOfMemoryError("out of memory while a search was recorded") from error
                self._has_failed = True
                log.warning("CUDA graphs do not work here, so captions take longer: %s", str(error).partition("\n")[0])
            finally:
                COMPILING.release()
        return self._recorded.get(key)


class RecordedSearch:
    """A search of which all steps are recorded. Its inputs and results are always at the same places in memory."""

    def __init__(self, recorder: Recorder, begun: Open, advance: Advance, steps: int) -> None:
        found = _cloned(begun)
        self._inputs = _tensors(found)
        self._parts: list[tuple[Replay, Open]] = []
        for first in range(0, steps, WORDS):
            words = min(WORDS, steps - first)
            replay, found = recorder.record(lambda before=found, words=words: _advanced(before, advance, words))  # type: ignore[misc]
            self._parts.append((replay, found))

    def replay(self, begun: Open, are_over: AreOver) -> Open:
        """Replay the steps until all images are over; return them."""
        for kept, given in zip(self._inputs, _tensors(begun), strict=True):
            kept.copy_(given)
        for replay, found in self._parts:
            replay()
            if bool(are_over(found).all()):
                break
        return found


def _advanced(found: Open, advance: Advance, steps: int) -> Open:
    for _ in range(steps):
        found = advance(found)
    return found


def _filled(begun: Open, bucket: int) -> Open:
    """Return a batch of the size of its bucket."""
    images = torch.arange(bucket, device=begun.images.device)
    return begun.taken(images.where(images < len(begun.images), 0))


def _cloned(begun: Open) -> Open:
    """Return images with tensors of their own, which replays may overwrite."""
    (images,), hypotheses, state, memory, excluded = (tuple(t.clone() for t in part) for part in _parts(begun))
    return Open(images, Hypotheses(*hypotheses), state, memory, excluded[0] if excluded else None)


def _parts(found: Open) -> tuple[tuple[Tensor, ...], ...]:
    """Return all tensors that a search starts from."""
    excluded = () if found.excluded is None else (found.excluded,)
    return (found.images,), tuple(found.hypotheses), found.state, found.memory, excluded


def _tensors(found: Open) -> tuple[Tensor, ...]:
    return tuple(tensor for part in _parts(found) for tensor in part)


def _shapes(found: Open) -> object:
    return tuple(tuple((tuple(tensor.shape), tensor.dtype) for tensor in part) for part in _parts(found))


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one during which it was raised, is that: the end of a capture raises another one."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None
