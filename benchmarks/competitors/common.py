"""What the competitors share: the command line, the model with the plain beam search, and the record of what is done.

All of them use the product's model, preprocessing and text, so that only the way to run it differs.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from captioning.bundles import Bundle, find_bundles, named
from captioning.model.captioner import Captioner
from captioning.model.encoder import PixelsToGrid
from captioning.model.load_bundle import load_encoder
from captioning.model.pixels import Limits, Pixels, open_image
from captioning.model.repeats import said_once
from captioning.model.runtime import Runtime, load_captioner
from captioning.values import DecodeOptions
from tests.support.plain_search import PlainSearch

FINISHED = "finished"  # a line for each batch: the time in seconds since 1970, and the number of images
BATCH = 32


def arguments(text: str | None, **choices: float | str) -> argparse.Namespace:
    """Return what the command line says; `images` are the files of the folder.

    `choices` are options of the competitor with their defaults: those that are best on two cores, as
    `python -m benchmarks.compare FOLDER --tried` measures.
    """
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    for name, default in choices.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, help="a folder that exists")
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--model", default="lstm")
    parser.add_argument("--cache", type=Path, help="folder of compiled encoders, where the competitor has any")
    given = parser.parse_args()
    given.images = sorted(path for path in given.folder.iterdir() if path.is_file())
    given.options = DecodeOptions(beam_size=given.beam)
    return given


def bundle_of(model: str) -> Bundle:
    return named(model, find_bundles())


def pixels_of(path: Path, size: int = 224) -> Pixels:
    """Read and decode an image as the product does."""
    return open_image(path.read_bytes(), size, Limits())[0]


def plain_captioner(bundle: Bundle, encoder: Callable[[PixelsToGrid], nn.Module]) -> Captioner:
    """Return the model with its encoder in torch, as `encoder` prepares it, and the plain batched beam search."""
    network = encoder(load_encoder(bundle))

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = network(pixels)
        return features.float()

    captioner = load_captioner(bundle, Runtime("torch", "cpu", "fp32", "a competitor"), encode=encode)
    captioner = replace(captioner, search_precision="fp32")
    search = PlainSearch(captioner.decoder, said_once(captioner.vocabulary), captioner.neutral)
    captioner.__dict__["_search"] = search
    return captioner


def note_finished(out: Path, images: int) -> None:
    """Note that images are finished: their captions are where the competitor keeps them."""
    with (out / FINISHED).open("a") as file:
        file.write(f"{time.time()} {images}\n")
