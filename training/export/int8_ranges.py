"""Ranges of the encoder's activations for int8, which NNCF finds on images."""

import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from captioning.bundles import Bundle
from captioning.model.descriptions import preprocessing_of
from captioning.model.int8 import Int8, convolution_inputs
from captioning.model.load_bundle import load_encoder
from captioning.model.openvino_encoder import converted_encoder, import_openvino
from captioning.model.pixels import Pixels, open_image
from training.data.corpus import Corpus
from training.progress import Tick

IMAGES = 300  # NNCF's default; fewer where a corpus has fewer


def find_int8(bundle: Bundle, corpus: Corpus, cache: Path, tick: Tick = lambda done, total: None) -> dict[str, Any]:
    """Return the part `int8` of a bundle's description: ranges of activations, found on training images of a corpus.

    A range is NNCF's default: from the smallest to the largest activation of an image, each the mean over images, made
    symmetric where activations can be negative. `cache` is a folder in which converted encoders are kept.
    """
    size = preprocessing_of(bundle).size
    names = corpus.train[:: max(1, len(corpus.train) // IMAGES)][:IMAGES]
    graph = converted_encoder(lambda: load_encoder(bundle), size, cache / bundle.encoder_key)
    quantised = _quantised(graph, [corpus.image_folder / name for name in names], size, tick)
    ranges = {name: _range(output.get_node()) for name, output in convolution_inputs(quantised).items()}
    return asdict(Int8(ranges, len(names)))


def _quantised(graph: Any, images: Sequence[Path], size: int, tick: Tick) -> Any:
    """Return a graph as NNCF quantises it. Its corrected biases are of no use, because a bundle keeps ranges only."""
    import_openvino()  # first: it turns off the telemetry that both use
    import nncf

    opened = 0

    def batch_of_one(path: Path) -> Pixels:
        nonlocal opened
        opened += 1
        tick(opened, len(images))
        return open_image(path.read_bytes(), size)[0][None]

    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(io.StringIO()):  # it draws a progress bar of its own
        return nncf.quantize(
            graph,
            nncf.Dataset(images, batch_of_one),
            subset_size=len(images),
            target_device=nncf.TargetDevice.CPU,
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )


def _range(quantisation: Any) -> tuple[float, float]:
    """Return the lowest and the highest value of a FakeQuantize operation, with as many digits as float32 has."""
    low, high = (float(quantisation.input_value(i).get_node().get_data().item()) for i in (1, 2))
    return float(f"{low:.7g}"), float(f"{high:.7g}")
