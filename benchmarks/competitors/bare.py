"""The bare model: the product's encoder and beam search on pixels that are in memory already, as fast as it can be."""

import csv

from benchmarks.competitors.common import BATCH, arguments, bundle_of, note_finished, pixels_of
from captioning.model.runtime import choose_runtime, load_captioner


def main() -> None:
    given = arguments(__doc__)
    images = [pixels_of(path) for path in given.images]
    captioner = load_captioner(bundle_of(given.model), choose_runtime(), given.cache)
    with (given.out / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        for start in range(0, len(images), BATCH):
            captions = captioner.caption(images[start : start + BATCH], given.options)
            for path, caption in zip(given.images[start:], captions, strict=False):
                rows.writerow((path.name, caption.text))
            note_finished(given.out, len(captions))


if __name__ == "__main__":
    main()
