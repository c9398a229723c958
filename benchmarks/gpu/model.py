"""How fast the parts of the model are on a device: the encoder, the search, both."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.gpu.report import Report
from benchmarks.gpu.timing import rate
from captioning.model.captioner import Captioner
from captioning.model.compiled_encoder import CompiledEncoder
from captioning.model.pixels import Pixels
from captioning.model.search.beam import Loop, searched_images
from captioning.model.search.cuda_graph import CudaRecorder, GraphLoop
from captioning.values import DecodeOptions

OPTIONS = DecodeOptions()


def encoder_rows(
    report: Report, device: str, network: nn.Module, compiled: CompiledEncoder, sizes: Sequence[int]
) -> None:
    """Measure the encoder as it is, as a CUDA graph, and compiled. Pixels are on the device."""
    for size in sizes:
        pixels = torch.zeros(size, 224, 224, 3, dtype=torch.uint8, device=device)
        forms: dict[str, Callable[[], Callable[[], object]]] = {
            "as it is": lambda pixels=pixels: lambda: network(pixels),
            "compiled": lambda pixels=pixels: lambda: compiled(pixels),
        }
        if device.startswith("cuda"):
            forms["CUDA graph"] = lambda pixels=pixels: graph_of(network, pixels)
        for name, form in forms.items():

            def measured(form=form, size=size) -> float:  # type: ignore[no-untyped-def]
                return rate(form(), size, device, report.row_seconds)

            report.measure(f"encoder {name}, batch {size}", measured)


def graph_of(network: nn.Module, pixels: Tensor) -> Callable[[], object]:
    """Return what replays the encoder on a batch."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            network(pixels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(pixels)
    return graph.replay


def search_rows(report: Report, captioner: Captioner, features: Tensor, sizes: Sequence[int]) -> None:
    """Measure both searches and the text, with and without CUDA graphs, on the features (B, N, 2048) of images."""
    device = str(features.device)
    loops: dict[str, Loop] = {"as it is": searched_images}
    if features.is_cuda:
        loops["CUDA graphs"] = GraphLoop(CudaRecorder(device))
    for size in sizes:
        part = features.repeat(-(-size // len(features)), 1, 1)[:size]
        for name, loop in loops.items():
            searching = replace(captioner, loop=loop)
            report.measure(
                f"search and text {name}, batch {size}",
                lambda searching=searching, part=part, size=size: rate(
                    lambda: searching.caption_features(part, OPTIONS), size, device, report.row_seconds
                ),
            )


def both_rows(
    report: Report, captioner: Captioner, compiled: CompiledEncoder, images: Sequence[Pixels], goal: float
) -> None:
    """Measure a whole batch: the compiled encoder and the search on the device alone, then from pixels to captions."""
    size, device = len(images), captioner.decoder.bias.device
    pixels = torch.stack([torch.from_numpy(image) for image in images]).to(device)
    loop = GraphLoop(CudaRecorder(str(device))) if device.type == "cuda" else searched_images
    fast = replace(captioner, loop=loop, encode=lambda given: compiled(given.to(device)))

    def bare() -> None:
        features = compiled(pixels)
        concepts = None if fast.classifier is None else fast.classifier(features)
        fast._search.begin(features, concepts, None, OPTIONS).best().scores.cpu()

    def of(run: Callable[[], object]) -> float:
        return rate(run, size, str(device), report.row_seconds)

    report.measure(f"bare encoder and beam 3, batch {size}", lambda: of(bare), goal=goal)
    report.measure(f"pixels to captions, batch {size}", lambda: of(lambda: fast.caption(images, OPTIONS)))
