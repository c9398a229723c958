"""What `producer` prints about pages: the gallery and the review."""

from pathlib import Path

from captioning.terminal import count
from producer.gallery import Gallery
from producer.render import print_text


def print_gallery(folder: Path, done: Gallery) -> None:
    """Print what a gallery has, and how to open it."""
    size = f"{done.bytes / 1e9:.1f} GB" if done.bytes >= 1e8 else f"{done.bytes / 1e6:.1f} MB"
    print_text(f"{count(done.images, 'image')}, {size}")
    if done.without_thumbnail:
        images = count(done.without_thumbnail, "captioned image has", "captioned images have")
        print_text(f"{images} no thumbnail: the file is gone, has changed, or cannot be read now")
    print_text(f"open {folder / 'index.html'} in a browser")


def print_review(link: str) -> None:
    """Print where the review is. The link is on a line of its own, so that a terminal can open it."""
    print(
        f"{link}\n\nOpen this link to review captions. It is secret: who has it can change them. Ctrl-C stops.",
        flush=True,
    )
