"""Draw the sample photographs with the captions of one or more models.

python -m scripts.sample_sheet OUT.jpg MODEL...
"""

import sys
import tempfile
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from captioning.bundles import find_bundles, named
from captioning.model.pixels import open_image
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.settings import read_settings
from captioning.values import DecodeOptions
from scripts.sample_images import copy_samples

SIDE, TEXT, GAP, COLUMNS = 224, 58, 12, 5  # pixels, but for the columns
LINE = 34  # characters
MORE = ("brick.png", "clock_motion.png", "coins.png", "moon.png", "page.png")
"""Images that are harder than the samples of the demo."""


def captions_of(model: str, files: list[Path]) -> list[str]:
    """Return a caption with its confidence for each image file."""
    bundle = named(model, find_bundles(read_settings().bundle_folders))
    captioner = load_captioner(bundle, choose_runtime())
    images = [open_image(file.read_bytes(), captioner.preprocessing.size)[0] for file in files]
    return [f"{c.text} ({c.confidence:.0%})" for c in captioner.caption(images, DecodeOptions())]


def draw_sheet(files: list[Path], captions: dict[str, list[str]]) -> Image.Image:
    """Return the images in rows, each above its captions by model."""
    rows = -(-len(files) // COLUMNS)
    height = SIDE + TEXT * len(captions) + GAP
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * height + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, file in enumerate(files):
        left, top = GAP + i % COLUMNS * (SIDE + GAP), GAP + i // COLUMNS * height
        with Image.open(file) as image:
            shown = image.convert("RGB")
            shown.thumbnail((SIDE, SIDE))
        sheet.paste(shown, (left + (SIDE - shown.width) // 2, top + (SIDE - shown.height) // 2))
        for n, (model, texts) in enumerate(captions.items()):
            lines = textwrap.wrap(f"{model}: {texts[i]}", LINE)
            draw.multiline_text((left, top + SIDE + 4 + n * TEXT), "\n".join(lines[:4]), "black", font)
    return sheet


def main() -> None:
    """Write the sheet."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    out, models = Path(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        files = copy_samples(Path(folder), MORE)
        draw_sheet(files, {model: captions_of(model, files) for model in models}).save(out, quality=85)


if __name__ == "__main__":
    main()
