"""NNCF finds ranges with which the encoder computes in int8 nearly what it computes in float, without telemetry."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from captioning.bundles import find_bundles
from captioning.model.int8 import int8_graph
from captioning.model.load_bundle import load_encoder
from captioning.model.openvino_encoder import compiled_encoder, converted_encoder
from captioning.model.pixels import open_image
from training.data.corpus import open_corpus
from training.export.int8_ranges import find_int8


def test_ranges_of_four_photographs_keep_the_features(
    corpus: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images, kept = open_corpus(corpus, cache), Path(os.environ["CAPTIONING_TEST_RUNTIME"])
    bundle, ticks = find_bundles()["lstm"], list[tuple[int, int]]()
    part = find_int8(bundle, images, kept, lambda done, total: ticks.append((done, total)))
    assert part["images"] == 4
    assert ticks[-1] == (4, 4)
    assert len(json.dumps(part)) < 4000
    assert part["ranges"]["conv1"][0] < 0 < part["ranges"]["conv1"][1]
    assert all(low == 0 < high for name, (low, high) in part["ranges"].items() if name != "conv1")
    assert capfd.readouterr().out == ""
    assert sys.modules["openvino_telemetry"] is None

    graph = converted_encoder(lambda: load_encoder(bundle), 224, kept / bundle.encoder_key)
    quantised = int8_graph(graph, dataclasses.replace(bundle, description=bundle.description | {"int8": part}))
    photographs = [open_image((images.image_folder / name).read_bytes(), 224)[0] for name in images.train]
    pixels = torch.from_numpy(np.stack(photographs))
    exact, found = (compiled_encoder(g, "fp32")(pixels).mean(1) for g in (graph, quantised))
    assert float(torch.nn.functional.cosine_similarity(exact, found).min()) > 0.99
