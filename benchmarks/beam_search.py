"""Time the search of captions against the plain one, in turns, batch by batch: `make bench-beam IMAGES=folder`.

The encoder runs first and is not timed. A row has the median and the least milliseconds of a batch, the median of the
ratios of batches that ran one after the other, which other programs on the machine disturb least, and the share of
images with the same caption as the plain search.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captioning.bundles import find_bundles
from captioning.model.captioner import Captioner
from captioning.model.pixels import Limits, open_image
from captioning.model.repeats import said_once
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.values import DecodeOptions
from tests.support.plain_search import PlainSearch

PLAIN = "plain"


def main() -> None:
    """Measure the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--beams", type=int, default=DecodeOptions().beam_size)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("model  search   median ms  least ms  of plain  same captions")
    for name, bundle in find_bundles().items():
        captioner = load_captioner(bundle, choose_runtime())
        features = list(grids(captioner, sorted(given.folder.iterdir())[: given.images], given.batch))
        measure(name, searches_of(captioner), features, DecodeOptions(beam_size=given.beams))


def searches_of(captioner: Captioner) -> dict[str, Captioner]:
    """Return captioners that differ in how they search."""
    plain = replace(captioner)
    plain.__dict__["_search"] = PlainSearch(captioner.decoder, said_once(captioner.vocabulary), captioner.neutral)
    precisions = dict.fromkeys(("fp32", captioner.search_precision))
    return {PLAIN: plain} | {precision: replace(captioner, search_precision=precision) for precision in precisions}


def grids(captioner: Captioner, files: list[Path], batch: int) -> Iterator[Tensor]:
    """Return the features (B, N, 2048) of images, batch by batch."""
    for start in range(0, len(files), batch):
        images = [open_image(f.read_bytes(), captioner.preprocessing.size, Limits())[0] for f in files[start:][:batch]]
        with torch.inference_mode():
            yield captioner.encode(torch.from_numpy(np.stack(images)))


def measure(name: str, captioners: dict[str, Captioner], features: list[Tensor], options: DecodeOptions) -> None:
    """Print a row for each way to search."""
    seconds: dict[str, list[float]] = {search: [] for search in captioners}
    texts: dict[str, list[str]] = {search: [] for search in captioners}
    for captioner in captioners.values():
        captioner.caption_features(features[0], options)  # prepares it
    for grid in features:
        for search, captioner in captioners.items():
            started = time.perf_counter()
            captions = captioner.caption_features(grid, options)
            seconds[search].append(time.perf_counter() - started)
            texts[search] += [caption.text for caption in captions]
    for search, taken in seconds.items():
        ratio = statistics.median(own / plain for own, plain in zip(taken, seconds[PLAIN], strict=True))
        same = statistics.mean(a == b for a, b in zip(texts[search], texts[PLAIN], strict=True))
        times = f"{1e3 * statistics.median(taken):9.1f} {1e3 * min(taken):9.1f}"
        print(f"{name:6} {search:8} {times} {ratio:9.2f} {100 * same:12.1f} %", flush=True)


if __name__ == "__main__":
    main()
