"""What `producer` prints about images that are like others."""

import sys
from collections.abc import Sequence
from typing import Any

from captioning.store.similar import Duplicates, SimilarFile
from captioning.terminal import count
from producer.render import percent, print_table


def print_similar(files: Sequence[SimilarFile]) -> None:
    """Print the files that are like a file."""
    if not files:
        print("no other image can be compared with it", file=sys.stderr)
        return
    print_table(
        ("path", "size", "score", "is"),
        ((file.path, _size(file), percent(file.score), file.kind or "") for file in files),
        wrap=("path",),
        optional=("size",),
    )


def print_duplicates(found: Duplicates, limit: int) -> None:
    """Print clusters, and on standard error how many there are and what was not compared."""
    shown = found.clusters[:limit]
    if shown:
        print_table(
            ("no.", "path", "size", "bytes", "is"),
            (
                (number, file.path, _size(file), file.bytes, _match(file))
                for number, files in enumerate(shown, start=1)
                for file in files
            ),
            wrap=("path",),
            optional=("bytes", "size"),
        )
    files = sum(map(len, found.clusters))
    text = f"{count(len(found.clusters), 'cluster')} of {count(files, 'file')}" if shown else "no duplicates"
    more = "; --limit shows more" if len(found.clusters) > limit else ""
    print(f"{text}; {count(found.compared, 'image')} compared{more}", file=sys.stderr)
    if found.without_features:
        images = count(found.without_features, "image was", "images were")
        print(
            f"{images} captioned before images could be compared: `producer submit --force` does it again",
            file=sys.stderr,
        )


def duplicates_json(found: Duplicates, limit: int) -> dict[str, Any]:
    """Return clusters as JSON has them."""
    return {
        "clusters": [[file.as_json() for file in files] for files in found.clusters[:limit]],
        "found": len(found.clusters),
        "compared": found.compared,
        "without_features": found.without_features,
    }


def _size(file: SimilarFile) -> str:
    return f"{file.width} x {file.height}"


def _match(file: SimilarFile) -> str:
    return "" if file.kind is None else str(file.kind) if file.score == 1.0 else f"{file.kind} {percent(file.score)}"
