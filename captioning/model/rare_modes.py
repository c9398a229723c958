"""Images in modes that only the extra formats have, as a viewer shows them: numbers above 8 bits, Lab, YCbCr."""

import numpy as np
from PIL import Image, ImageCms

_MOST_16 = 65_535


def in_usual_mode(image: Image.Image) -> Image.Image:
    """Return the image in a mode that the basic formats have too, the same object if it is in one."""
    if image.mode in ("F", "I"):
        return _grey_of_numbers(image)
    if image.mode == "I;16B":
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert("RGB") if image.mode in ("YCbCr", "HSV", "RGBX") else image


def _grey_of_numbers(image: Image.Image) -> Image.Image:
    """Scale numbers to 8 bits: from 0 to 1, or 0 to 65535, if they lie there; otherwise from the least to the most."""
    values = np.asarray(image, dtype=np.float32)
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    if low >= 0 and high <= (top := 1.0 if image.mode == "F" else _MOST_16):
        low, high = 0.0, float(top)
    scaled = (np.where(finite, values, low) - low) * (255.0 / max(high - low, 1e-30))
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
