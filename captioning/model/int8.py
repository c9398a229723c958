"""The encoder in int8: its OpenVINO graph with FakeQuantize operations, which tell a CPU what to compute in int8.

Jacob et al. 2017 (arXiv:1712.05877). The ranges of activations are in the bundle, where `training export` writes them;
those of weights follow from the weights. A convolution with both of its inputs quantised runs in int8.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from captioning.bundles import Bundle
from captioning.errors import BundleError
from captioning.model.descriptions import from_description
from captioning.model.openvino_encoder import import_openvino
from captioning.terminal import printable

_BLOCKS = (3, 4, 6, 3)  # in stages 2 to 5 of a ResNet50
_ACTIVATION_LEVELS = 256
_WEIGHT_LEVELS = 255  # so that 0 is one of them
_WEIGHT_STEPS = 63  # from 0 to the largest weight of a channel; int8 has 127


@dataclass(frozen=True)
class Int8:
    """The part `int8` of a bundle's description."""

    ranges: dict[str, tuple[float, float]]  # of the input of each convolution, by the convolution's name in torchvision
    images: int  # that the ranges were found on


def int8_graph(graph: Any, bundle: Bundle) -> Any:
    """Return a copy of an encoder's graph that runs in int8. Raises BundleError when the bundle has no ranges for it.

    Weights have one range per output channel. They take half of int8: CPUs without VNNI add two products of 8 bits in
    16 bits, which would overflow.
    """
    if "int8" not in bundle.description:
        raise BundleError(f"{bundle.description_file} has no ranges for int8. Export the bundle again, with --data.")
    ranges = from_description(Int8, "int8", bundle).ranges
    graph = graph.clone()
    inputs = convolution_inputs(graph)
    if wrong := sorted(ranges.keys() ^ inputs.keys()):
        raise bundle.damaged(f"int8.ranges: they do not fit the encoder: {printable(', '.join(wrong[:5]))}")
    for name, (low, high) in ranges.items():
        if not low < high:
            raise bundle.damaged(f"int8.ranges.{name}: {low} is not less than {high}")
        _quantise(inputs[name], np.float32(low), np.float32(high), _ACTIVATION_LEVELS)
    for convolution in _convolutions(graph):
        weights = convolution.input_value(1)
        limit = np.abs(_constant(weights)).max(axis=(1, 2, 3), keepdims=True).clip(min=1e-12) * (127 / _WEIGHT_STEPS)
        _quantise(weights, -limit, limit, _WEIGHT_LEVELS)
    graph.validate_nodes_and_infer_types()
    return graph


def convolution_inputs(graph: Any) -> dict[str, Any]:
    """Return what the convolutions of an encoder's graph read, as outputs of operations, by the convolutions' names.

    The first convolution of a shortcut reads what its block reads, so it has no entry. What a max pooling reads stands
    for what it returns: quantised before it, it runs in int8 too.
    """
    found = {}
    for name, convolution in zip(_names(), _convolutions(graph), strict=True):
        source = convolution.input_value(0)
        if source.get_node().get_type_name() == "MaxPool":
            source = source.get_node().input_value(0)
        if "downsample" not in name:
            found[name] = source
    return found


def _names() -> list[str]:
    """Return torchvision's names of the convolutions of a ResNet50, in the order in which they are computed."""
    names = ["conv1"]
    for stage, blocks in enumerate(_BLOCKS, start=1):
        for block in range(blocks):
            names += [f"layer{stage}.{block}.conv{i}" for i in (1, 2, 3)]
            names += [f"layer{stage}.{block}.downsample.0"] if block == 0 else []
    return names


def _convolutions(graph: Any) -> list[Any]:
    """Return the convolutions of a graph in topological order."""
    return [operation for operation in graph.get_ordered_ops() if operation.get_type_name() == "Convolution"]


def _constant(output: Any) -> Any:
    """Return a constant's value in float32, also when a file keeps it in float16."""
    node = output.get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node.get_data().astype(np.float32)


def _quantise(output: Any, low: Any, high: Any, levels: int) -> None:
    """Make everything that reads an output read it in steps: `levels` values from `low` to `high`."""
    readers = output.get_target_inputs()
    quantised = import_openvino().opset13.fake_quantize(output, low, high, low, high, levels)
    for reader in readers:
        reader.replace_source_output(quantised.output(0))
