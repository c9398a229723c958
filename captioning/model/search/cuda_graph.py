"""Replays the steps of a beam search on a GPU as CUDA graphs: one launch for four words instead of hundreds.

A graph has fixed shapes, so there is one for each bucket of batch sizes; a smaller batch is filled up with copies of
its first image. Steps of a search have no shape that depends on a value (`captioning.model.search.beam.advanced`), so
they can be captured as they are. No captioner uses it: it has not run on a GPU yet.
`benchmarks/gpu_beam.py` checks and times it on one.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captioning.model.beam import BeamResult, State, ranked
from captioning.model.decoder import Memory
from captioning.model.search.beam import Open, Score, advanced, beam_search, is_over, started
from captioning.model.search.rules import Rules

log = logging.getLogger(__name__)

BUCKETS = (32, 64, 128, 256, 512)
WORDS = 4  # of one graph: after each the GPU is asked whether all captions have ended
_WARM_UP = 2  # runs before a capture, in which libraries allocate what they keep


@dataclass
class GraphSearch:
    """`beam_search` by CUDA graphs, and as usual where one cannot be captured. One search at a time."""

    score: Score
    _captured: dict[object, "Captured"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _failed: bool = False

    def __call__(self, memory: Memory, state: State, rules: Rules, excluded: Tensor | None) -> BeamResult:
        """Search captions of B images, see `beam_search`."""
        images = state[0].size(1)
        bucket = next((size for size in BUCKETS if size >= images), None)
        if self._failed or bucket is None:
            return beam_search(self.score, memory, state, rules, excluded)
        begun = _filled(started(memory, state, excluded), bucket)
        try:
            with self._lock:
                return self._replayed(begun, rules, images)
        except torch.OutOfMemoryError:
            raise  # the caller tries a smaller batch
        except RuntimeError as error:
            self._failed = True
            log.warning("CUDA graphs do not work here, so captions take longer: %s", str(error).partition("\n")[0])
            return beam_search(self.score, memory, state, rules, excluded)

    def _replayed(self, begun: Open, rules: Rules, images: int) -> BeamResult:
        shapes = tuple(tuple(tensor.shape) for tensor in _tensors(begun))
        key = (shapes, rules.options)
        if key not in self._captured:
            self._captured[key] = Captured(begun, lambda found: advanced(self.score, found, rules), rules)
        found = self._captured[key].search(begun).hypotheses
        words, log_probabilities, totals = (part[:images].clone() for part in found)  # the next search overwrites them
        return ranked(words[..., 1:], log_probabilities, totals, rules.options)


class Captured:
    """The graphs of one search. Its inputs and results are always at the same places in memory."""

    def __init__(self, begun: Open, advance: Callable[[Open], Open], rules: Rules) -> None:
        self._inputs = _tensors(begun)
        steps = rules.options.max_words + 1
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                _advanced(begun, advance, steps)
        torch.cuda.current_stream().wait_stream(side)
        self._graphs: list[tuple[torch.cuda.CUDAGraph, Open]] = []
        pool, found = torch.cuda.graph_pool_handle(), begun
        for first in range(0, steps, WORDS):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                found = _advanced(found, advance, min(WORDS, steps - first))
            self._graphs.append((graph, found))

    def search(self, begun: Open) -> Open:
        """Replay graphs until all images are over; return them."""
        for kept, given in zip(self._inputs, _tensors(begun), strict=True):
            kept.copy_(given)
        for graph, found in self._graphs:
            graph.replay()
            if bool(is_over(found).all()):
                break
        return found


def _advanced(found: Open, advance: Callable[[Open], Open], steps: int) -> Open:
    for _ in range(steps):
        found = advance(found)
    return found


def _filled(begun: Open, bucket: int) -> Open:
    """Return a batch of the size of its bucket."""
    images = torch.arange(bucket, device=begun.images.device)
    return begun.taken(images.where(images < len(begun.images), 0))


def _tensors(found: Open) -> tuple[Tensor, ...]:
    """Return all tensors that a search starts from."""
    excluded = () if found.excluded is None else (found.excluded,)
    return (found.images, *found.hypotheses, *found.state, *found.memory, *excluded)
