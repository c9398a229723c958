"""Check and time the search of captions by CUDA graphs: `python -m benchmarks.gpu_beam`, on a machine with a GPU.

The images are random grids. A row has the images per second of the search with and without graphs, and the share of
images for which both find the same captions. Not run yet: no GPU has been available.
"""

import time
from collections.abc import Callable

import torch

from captioning.bundles import find_bundles
from captioning.model.beam import BeamResult
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.model.search.captions import BatchSearch, CaptionSearch
from captioning.model.search.cuda_graph import BUCKETS, GraphSearch
from captioning.values import DecodeOptions
from tests.support.plain_search import same_hypotheses

_ROUNDS = 10


def main() -> None:
    """Measure every bucket."""
    captioner = load_captioner(
        find_bundles()["lstm"], choose_runtime("torch", "cuda"), encode=lambda pixels: pixels.float()
    )
    search = CaptionSearch.of(captioner.decoder, captioner.vocabulary, captioner.neutral, "fp32")
    graphs = GraphSearch(search.decoder.step)
    assert captioner.classifier is not None
    print("images  plain/s  graphs/s  same")
    for size in BUCKETS:
        features = torch.rand(size, 49, 2048, device="cuda")
        with torch.inference_mode():
            batch = search.begin(features, captioner.classifier(features), None, DecodeOptions())
            row(size, batch, graphs)


def row(size: int, batch: BatchSearch, graphs: GraphSearch) -> None:
    """Print the speed of both searches of a batch, and whether they agree."""

    def by_graphs() -> BeamResult:
        return graphs(batch.memory, batch.state, batch.rules, batch.excluded)

    same = same_hypotheses(by_graphs(), batch.best()).float().mean().item()
    print(f"{size:6} {size / seconds(batch.best):8.0f} {size / seconds(by_graphs):9.0f} {100 * same:5.1f} %")


def seconds(search: Callable[[], BeamResult]) -> float:
    """Return the seconds of one search."""
    search()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        search()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / _ROUNDS


if __name__ == "__main__":
    main()
