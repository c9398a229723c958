"""A simple scene, drawn by code, and the bytes of an image file."""

import io
import random

from PIL import Image, ImageDraw


def scene(seed: int = 0, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Return an image of a simple scene: sky, ground and a few discs."""
    chance = random.Random(seed)
    image = Image.new("RGB", size, (120, 160, 220))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size[1] * 2 // 3, *size), fill=(70, 120, 50))
    for _ in range(6):
        x, y, r = chance.randrange(size[0]), chance.randrange(size[1]), chance.randrange(5, 30)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(chance.randrange(256) for _ in range(3)))
    return image


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    """Return the bytes of an image file in one of Pillow's formats."""
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()
