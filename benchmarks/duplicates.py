"""Measure how well near-duplicates are found: copies of your images that were changed in 22 ways, and other images.

python -m benchmarks.duplicates quality FOLDER [FOLDER ...] --queries 200 --others 3000
python -m benchmarks.duplicates speed --images 1000000
python -m benchmarks.duplicates store --images 1000000 --url sqlite:///captions.sqlite    # an empty database

`quality` encodes images with the default model, changes some of them as people and programs do, and prints the share of
changed copies that are found, and the pairs of different images that are taken for near-duplicates. `speed` measures
the search in made-up features, `store` reads them from a database.
"""

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import sqlalchemy as sa
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

import migrations
from benchmarks.exports import fill
from captioning import near_duplicates
from captioning.bundles import find_bundles, named
from captioning.errors import ImageError
from captioning.features import DIMENSIONS, SKETCH_BITS, THUMBNAIL_BYTES, pack_thumbnail, pack_vectors
from captioning.model.captioner import Captioner
from captioning.model.pixels import open_image
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.settings import read_settings
from captioning.store import similar
from captioning.store.database import Database
from captioning.store.features import captioned_thumbnails, load
from captioning.store.schema import Encoder, Features

_BATCH = 64
Photo = Image.Image


def saved(image: Photo, kind: str = "JPEG", quality: int = 85) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()


def cropped(image: Photo, share: float, rng: np.random.Generator) -> Photo:
    """Take a share off the width and the height, at a random place."""
    width, height = (round(side * (1 - share)) for side in image.size)
    x, y = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    return image.crop((x, y, x + width, y + height))


def scaled(image: Photo, factor: float) -> Photo:
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))


def with_text(image: Photo, text: str, height: float, at: tuple[float, float]) -> Photo:
    image = image.copy()
    place, font = (at[0] * image.width, at[1] * image.height), ImageFont.load_default(height * image.height)
    ImageDraw.Draw(image).text(place, text, fill="white", stroke_width=1, stroke_fill="black", font=font)
    return image


CHANGES: dict[str, Callable[[Photo, np.random.Generator], bytes]] = {
    "JPEG, quality 90": lambda image, _: saved(image, quality=90),
    "JPEG, quality 70": lambda image, _: saved(image, quality=70),
    "JPEG, quality 50": lambda image, _: saved(image, quality=50),
    "JPEG, quality 30": lambda image, _: saved(image, quality=30),
    "WebP, quality 80": lambda image, _: saved(image, "WEBP", 80),
    "WebP, quality 40": lambda image, _: saved(image, "WEBP", 40),
    "scaled to 2.0": lambda image, _: saved(scaled(image, 2)),
    "scaled to 0.5": lambda image, _: saved(scaled(image, 0.5)),
    "scaled to 0.25": lambda image, _: saved(scaled(image, 0.25)),
    "brightness +20 %": lambda image, _: saved(ImageEnhance.Brightness(image).enhance(1.2)),
    "brightness -20 %": lambda image, _: saved(ImageEnhance.Brightness(image).enhance(0.8)),
    "contrast +30 %": lambda image, _: saved(ImageEnhance.Contrast(image).enhance(1.3)),
    "grey": lambda image, _: saved(ImageOps.grayscale(image)),
    "small watermark": lambda image, _: saved(with_text(image, "(c) 2026 name", 0.06, (0.55, 0.9))),
    "large text": lambda image, _: saved(with_text(image, "TEXT ON THE IMAGE", 0.12, (0.03, 0.03))),
    "white frame of 5 %": lambda image, _: saved(ImageOps.expand(image, round(image.width * 0.05), "white")),
    "turned by 2 degrees": lambda image, _: saved(image.rotate(2, Image.Resampling.BICUBIC)),
    "cropped by 5 %": lambda image, rng: saved(cropped(image, 0.05, rng)),
    "cropped by 10 %": lambda image, rng: saved(cropped(image, 0.1, rng)),
    "cropped by 20 %": lambda image, rng: saved(cropped(image, 0.2, rng)),
    "cropped by 30 %": lambda image, rng: saved(cropped(image, 0.3, rng)),
    "mirrored": lambda image, _: saved(ImageOps.mirror(image)),
}


def quality(folders: list[Path], queries: int, others: int) -> None:
    """Print recall by change, and what is found among different images."""
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    paths = [found[i] for i in np.random.default_rng(0).permutation(len(found))[: queries + others]]
    settings = read_settings()
    bundle = named(settings.model, find_bundles(settings.bundle_folders))
    captioner = load_captioner(bundle, choose_runtime(), settings.model_cache)
    originals = [(path, data) for path in paths if is_image(data := path.read_bytes())]
    print(f"{len(originals)} images, {min(queries, len(originals))} of them changed in {len(CHANGES)} ways", flush=True)
    base = features(captioner, (data for _, data in originals))
    count = min(queries, len(originals))
    print("\n| change | found with --strict | found | as |\n|---|---|---|---|")
    for name, change in CHANGES.items():
        changed = (
            change(Image.open(io.BytesIO(data)).convert("RGB"), np.random.default_rng(i))
            for i, (_, data) in enumerate(originals[:count])
        )
        copies = features(captioner, changed)
        print(f"| {name} | {recall(base, copies, count)} |", flush=True)
    report_others(base, [path for path, _ in originals])


def is_image(data: bytes) -> bool:
    try:
        open_image(data, 32)
    except ImageError:
        return False
    return True


def features(captioner: Captioner, files: Iterable[bytes]) -> near_duplicates.Images:
    """Compute the features of images, as a worker does."""
    vectors, thumbnails = [], []
    waiting: Iterator[bytes] = iter(files)
    while batch := [open_image(data, captioner.preprocessing.size)[0] for data in islice(waiting, _BATCH)]:
        with torch.inference_mode():
            grid = captioner.encode(torch.from_numpy(np.stack(batch)))
        vectors += pack_vectors(grid.float().mean(1).cpu().numpy())
        thumbnails += [pack_thumbnail(pixels) for pixels in batch]
    return near_duplicates.Images.unpack(vectors, thumbnails)


def recall(base: near_duplicates.Images, copies: near_duplicates.Images, count: int) -> str:
    """Return the shares of copies that form a pair with their original, as cells of a table."""
    both = near_duplicates.Images(
        np.concatenate([base.vectors[:count], copies.vectors]),
        np.concatenate([base.thumbnails[:count], copies.thumbnails]),
    )
    cells = []
    for strict in (True, False):
        pairs = near_duplicates.find_pairs(both, strict=strict)
        own = pairs.second - pairs.first == count
        cells.append(f"{100 * own.sum() / count:.1f} %")
    mirrored = 100 * pairs.mirrored[own].mean() if own.any() else 0.0
    return " | ".join([*cells, "mirrored" if mirrored > 50 else ""])


def report_others(base: near_duplicates.Images, paths: list[Path]) -> None:
    """Print the pairs among different images that are taken for near-duplicates, to be looked at."""
    total = len(base) * (len(base) - 1) // 2
    for strict in (True, False):
        pairs = near_duplicates.find_pairs(base, strict=strict)
        print(f"\n{'--strict' if strict else 'default'}: {len(pairs)} of {total:,} pairs of images as they are")
        for i in np.argsort(-pairs.scores):
            first, second = (paths[int(rows[i])].name for rows in (pairs.first, pairs.second))
            print(f"    {pairs.scores[i]:.2f} {'mirrored ' if pairs.mirrored[i] else ''}{first} {second}")


def speed(count: int) -> None:
    """Measure searches in made-up features: a tenth of the images are copies of others."""
    rng = np.random.default_rng(0)
    vectors = np.clip(np.rint(rng.standard_normal((count, DIMENSIONS), np.float32) * 40), -127, 127).astype(np.int8)
    thumbnails = rng.integers(0, 256, (count, THUMBNAIL_BYTES), np.uint8)
    copies = count // 10
    vectors[-copies:], thumbnails[-copies:] = vectors[:copies], thumbnails[:copies]
    images = near_duplicates.Images(vectors, thumbnails)
    started = time.monotonic()
    near_duplicates.nearest(vectors[0], iter([(np.arange(count), vectors)]), 20)
    print(f"{count:,} images: nearest {time.monotonic() - started:.2f} s", flush=True)
    for strict in (True, False):
        started = time.monotonic()
        pairs = near_duplicates.find_pairs(images, strict=strict)
        print(
            f"  strict={strict}: {len(pairs):,} pairs of {copies:,} in {time.monotonic() - started:.1f} s", flush=True
        )


def store(count: int, url: str) -> None:
    """Fill an empty database with made-up features, and measure the queries of `similar`, `duplicates` and workers."""
    db = Database(url)
    migrations.ensure_schema(db)
    with tempfile.TemporaryDirectory() as folder:
        made = ((f"{n // 1000:05d}/{n:09d}.jpg", f"{n:064x}", 100_000 + n, 1) for n in range(count))
        count = fill(db, Path(folder), made)
    rng, started = np.random.default_rng(0), time.monotonic()
    with db.writing() as connection:
        connection.execute(sa.insert(Encoder).values(id=1, key="1:made-up"))
    for start in range(0, count, 20_000):
        rows = range(start + 1, min(start + 20_000, count) + 1)
        with db.writing() as connection:
            connection.execute(sa.insert(Features), [
                {"image_id": n, "encoder_id": 1, "vector": rng.bytes(DIMENSIONS),
                 "thumbnail": rng.bytes(THUMBNAIL_BYTES), "sketch": int(rng.integers(1 << SKETCH_BITS))} for n in rows
            ])  # fmt: skip
    report("insert the features", started)
    for name, query in (
        ("read all features", lambda: load(db, 1)),
        ("similar", lambda: similar.similar_files(db, 1, 20)),
        (
            "candidates of a batch of 32",
            lambda: captioned_thumbnails(db, 1, "", rng.integers(1 << 24, size=8192).tolist()),
        ),
    ):
        started = time.monotonic()
        query()
        report(name, started)
    db.close()


def report(what: str, started: float) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.monotonic() - started:.2f} s, peak {memory:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_quality = commands.add_parser("quality")
    of_quality.add_argument("folders", type=Path, nargs="+")
    of_quality.add_argument("--queries", type=int, default=200)
    of_quality.add_argument("--others", type=int, default=3000)
    commands.add_parser("speed").add_argument("--images", type=int, default=100_000)
    of_store = commands.add_parser("store")
    of_store.add_argument("--images", type=int, default=100_000)
    of_store.add_argument("--url", required=True)
    arguments = parser.parse_args()
    if arguments.command == "quality":
        quality(arguments.folders, arguments.queries, arguments.others)
    elif arguments.command == "speed":
        speed(arguments.images)
    else:
        store(arguments.images, arguments.url)


if __name__ == "__main__":
    main()
