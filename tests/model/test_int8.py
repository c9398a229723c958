"""The encoder in int8: every convolution is quantised, its features stay close, ranges that do not fit are refused."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from captioning.bundles import Bundle, find_bundles
from captioning.errors import BundleError
from captioning.model.encoder import fold_batch_norm
from captioning.model.int8 import convolution_inputs, int8_graph
from captioning.model.load_bundle import load_encoder
from captioning.model.openvino_encoder import compiled_encoder, converted_encoder
from captioning.model.pixels import open_image

SIZE = 224


def with_int8(bundle: Bundle, part: Any) -> Bundle:
    return dataclasses.replace(bundle, description=bundle.description | {"int8": part})


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return find_bundles()["lstm"]


@pytest.fixture(scope="module")
def graph(bundle: Bundle) -> Any:
    kept = Path(os.environ["CAPTIONING_TEST_RUNTIME"]) / bundle.encoder_key
    return converted_encoder(lambda: load_encoder(bundle), SIZE, kept)


@pytest.fixture(scope="module")
def pixels(photographs: Path) -> torch.Tensor:
    images = [open_image(path.read_bytes(), SIZE)[0] for path in sorted(photographs.iterdir())]
    return torch.from_numpy(np.stack(images))


@pytest.fixture(scope="module")
def ranges(bundle: Bundle, pixels: torch.Tensor) -> dict[str, list[float]]:
    """What torch finds: the extremes of each convolution's input."""
    found: dict[str, list[float]] = {}
    network = load_encoder(bundle)
    for name, module in network.encoder.named_modules():
        if isinstance(module, torch.nn.Conv2d) and "downsample" not in name:
            module.register_forward_pre_hook(
                lambda _module, x, name=name: found.update({name: [float(x[0].min()), float(x[0].max())]})
            )
    with torch.inference_mode():
        network(pixels)
    return found


def constant(output: Any) -> Any:
    node = output.get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node.get_data()


def test_features_in_int8_are_close_to_those_in_float(
    bundle: Bundle, graph: Any, pixels: torch.Tensor, ranges: dict[str, list[float]]
) -> None:
    quantised = int8_graph(graph, with_int8(bundle, {"ranges": ranges, "images": len(pixels)}))
    exact, found = (compiled_encoder(g, "fp32")(pixels).mean(1) for g in (graph, quantised))
    assert not torch.equal(exact, found)
    assert float(torch.nn.functional.cosine_similarity(exact, found).min()) > 0.98


def test_every_convolution_reads_quantised_activations_and_weights(
    bundle: Bundle, graph: Any, ranges: dict[str, list[float]]
) -> None:
    quantised = int8_graph(graph, with_int8(bundle, {"ranges": ranges, "images": 1}))
    assert all(output.get_node().get_type_name() == "FakeQuantize" for output in convolution_inputs(quantised).values())
    convolutions = [node for node in quantised.get_ordered_ops() if node.get_type_name() == "Convolution"]
    assert len(convolutions) == 53
    for convolution in convolutions:
        assert convolution.input_value(0).get_node().get_type_name() in ("FakeQuantize", "MaxPool")
        assert convolution.input_value(1).get_node().get_type_name() == "FakeQuantize"
    assert not any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops()), "the graph itself is unchanged"


def test_each_name_is_that_of_the_convolution_with_these_weights(bundle: Bundle, graph: Any) -> None:
    encoder = fold_batch_norm(load_encoder(bundle).encoder)
    for name, output in convolution_inputs(graph).items():
        wanted = encoder.get_submodule(name).weight.detach().numpy()
        readers = [reader.get_node() for reader in output.get_target_inputs()]
        readers += [r.get_node() for node in readers if node.get_type_name() == "MaxPool"
                    for r in node.output(0).get_target_inputs()]  # fmt: skip
        weights = [constant(node.input_value(1)) for node in readers if node.get_type_name() == "Convolution"]
        assert any(w.shape == wanted.shape and np.allclose(w, wanted, rtol=1e-2, atol=1e-4) for w in weights), name


def test_ranges_that_do_not_fit_are_refused(bundle: Bundle, graph: Any, ranges: dict[str, list[float]]) -> None:
    first = dict(list(ranges.items())[:-1])
    for part, message in (
        ({"ranges": first, "images": 1}, "int8.ranges: they do not fit the encoder: layer4.2.conv3. Re-export"),
        ({"ranges": ranges | {"conv9": [0.0, 1.0]}, "images": 1}, "they do not fit the encoder: conv9. Re-export"),
        ({"ranges": ranges | {"conv1": [1.0, 1.0]}, "images": 1}, "int8.ranges.conv1: 1.0 is not less than 1.0"),
        ({"ranges": ranges | {"conv1": [1.0]}, "images": 1}, "int8.ranges.conv1.1: field required"),
        ({"ranges": ranges}, "int8.images: field required"),
        (None, "int8: "),
    ):
        with pytest.raises(BundleError, match=message):
            int8_graph(graph, with_int8(bundle, part))
    without = {key: value for key, value in bundle.description.items() if key != "int8"}
    with pytest.raises(BundleError, match=r"has no ranges for int8\. Export the bundle again, with --data"):
        int8_graph(graph, dataclasses.replace(bundle, description=without))
