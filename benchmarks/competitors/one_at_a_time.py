"""The seed's way: one image at a time, in torch as it comes, fp32, one thread of control.

torch uses all cores for each operation, which is its default.
"""

import csv

from benchmarks.competitors.common import arguments, bundle_of, note_finished, pixels_of, plain_captioner


def main() -> None:
    given = arguments(__doc__)
    captioner = plain_captioner(bundle_of(given.model), lambda network: network.eval())
    with (given.out / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        for path in given.images:
            (caption,) = captioner.caption([pixels_of(path)], given.options)
            rows.writerow((path.name, caption.text))
            note_finished(given.out, 1)


if __name__ == "__main__":
    main()
