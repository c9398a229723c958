"""The only door to the model: pixels in, captions out."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from captioning.bundles import Bundle
from captioning.calibration import Calibration
from captioning.errors import BundleError, DeviceFailed, DeviceOutOfMemory, ServiceUnavailable
from captioning.model.beam import BeamResult, beam_search
from captioning.model.decoder import CaptionDecoder, DecoderConfig, make_decoder
from captioning.model.encoder import CHANNELS, PixelsToGrid, ResNetEncoder, Stride
from captioning.model.pixels import VERSION, Pixels, Preprocessing
from captioning.model.vocabulary import Vocabulary
from captioning.model.weights import load_weights
from captioning.values import Alternative, Caption, DecodeOptions

T = TypeVar("T")
M = TypeVar("M", bound=torch.nn.Module)
_LARGE = 1_000_000  # that no size of a model reaches; their products stay numbers
GridEncoder = Callable[[Tensor], Tensor]
"""uint8 pixels (B, S, S, 3) -> grid features (B, N, 2048) in float32, on the decoder's device."""


@dataclass(frozen=True)
class Captioner:
    """A loaded model. Not for several threads at once."""

    encode: GridEncoder
    decoder: CaptionDecoder
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    calibration: Calibration = field(default_factory=Calibration)

    def caption(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        """Return one caption an image, in order; each image (S, S, 3) uint8 as `open_image` gives it.

        Raises DeviceOutOfMemory and DeviceFailed.
        """
        if not images:
            return []
        try:
            with torch.inference_mode():
                features = self.encode(torch.from_numpy(np.stack(images)))
                return self.describe(features, options)
        except RuntimeError as failed:
            error = device_error(failed)
            if error is None:
                raise
        torch.cuda.empty_cache()  # here, where the failed call holds no tensors any more
        raise error

    def describe(self, features: Tensor, options: DecodeOptions) -> list[Caption]:
        """Return one caption for each row of grid features (B, N, 2048)."""
        memory, state = self.decoder.start(features)
        found = beam_search(lambda words, s: self.decoder.step(words, s, memory), state, options)
        return _captions(found, self.vocabulary, self.calibration)


def device_error(failed: RuntimeError) -> ServiceUnavailable | None:
    """Return what an error of torch says of the device; None when it says nothing of it.

    After an error that torch calls an accelerator's, every later call fails the same way: the CUDA context is lost.
    """
    said = (str(failed) or type(failed).__name__).splitlines()[0]
    if isinstance(failed, torch.OutOfMemoryError) or "out of memory" in said or "CUBLAS_STATUS_ALLOC_FAILED" in said:
        return DeviceOutOfMemory(said)
    if isinstance(failed, torch.AcceleratorError) or any(sign in said for sign in _BROKEN):
        return DeviceFailed(said)
    return None


_BROKEN = ("CUDA error", "CUDNN_STATUS_", "CUBLAS_STATUS_")


def _captions(found: BeamResult, vocabulary: Vocabulary, calibration: Calibration) -> list[Caption]:
    captions = []
    for words, logps, scores in zip(
        found.words.tolist(), found.log_probabilities.tolist(), found.scores.tolist(), strict=True
    ):
        texts = [vocabulary.decode(sentence) for sentence in words]
        others = tuple(
            Alternative(" ".join(text), round(sum(logp), 4))
            for text, logp, score in zip(texts[1:], logps[1:], scores[1:], strict=True)
            if score > float("-inf")
        )
        said = tuple(round(logp, 4) for logp in logps[0][: len(texts[0]) + 1])
        captions.append(Caption(" ".join(texts[0]), said, others, calibration.of_caption(said)))
    return captions


def load_decoder(bundle: Bundle) -> tuple[CaptionDecoder, Vocabulary]:
    """Return a bundle's decoder, in evaluation mode, with its words."""
    config = _dataclass_of(DecoderConfig, bundle.description["decoder"], bundle)
    try:
        vocabulary = Vocabulary(tuple(bundle.description["vocabulary"]))
    except ValueError as wrong:
        raise BundleError(f"the vocabulary of model {bundle.name} makes no sense: {wrong}. Re-export it.") from wrong
    if len(vocabulary) != config.vocabulary_size:
        raise BundleError(
            f"model {bundle.name} has {len(vocabulary)} words and a decoder for {config.vocabulary_size}."
            " Re-export the bundle."
        )
    if config.feature_size != CHANNELS:
        raise BundleError(
            f"the decoder of model {bundle.name} reads {config.feature_size} features a place, encoders give {CHANNELS}"
            " of them."
        )
    decoder = _filled(lambda: make_decoder(config), load_weights(bundle.decoder_file), bundle)
    return decoder.eval(), vocabulary


def load_encoder(bundle: Bundle) -> PixelsToGrid:
    """Return a bundle's encoder, in evaluation mode, not folded, in float32."""
    preprocessing = preprocessing_of(bundle)
    stride = bundle.description["encoder"]["stride"]
    if stride not in get_args(Stride):
        raise BundleError(f"the stride of model {bundle.name} is one of {', '.join(get_args(Stride))}, not {stride!r}.")
    encoder = _filled(lambda: ResNetEncoder(stride), load_weights(bundle.encoder_file), bundle)
    return PixelsToGrid(encoder.eval(), preprocessing.mean, preprocessing.std).eval()


def preprocessing_of(bundle: Bundle) -> Preprocessing:
    """Return how images are prepared for a bundle. Raises BundleError when this version does it otherwise."""
    described = bundle.description["preprocessing"]
    if described.get("version") != VERSION:
        raise BundleError(
            f"model {bundle.name} was trained with preprocessing {described.get('version')};"
            f" this version has {VERSION}."
        )
    return _dataclass_of(Preprocessing, described, bundle)


def _dataclass_of(kind: type[T], described: dict[str, Any], bundle: Bundle) -> T:
    """Make a value of what a bundle says, lists as tuples. Raises BundleError when a field isn't what it should be."""
    hints = get_type_hints(kind)
    needed = {f.name for f in fields(kind) if f.default is MISSING}  # type: ignore[arg-type]
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
    odd = (needed - given.keys()) | (given.keys() - hints.keys())
    odd |= {key for key, value in given.items() if key in hints and not _fits(value, hints[key])}
    if odd:
        said = ", ".join(sorted(odd))
        raise BundleError(f"the {kind.__name__} of model {bundle.name} doesn't fit this version: {said}. Re-export it.")
    try:
        return kind(**given)
    except ValueError as wrong:
        raise BundleError(
            f"the {kind.__name__} of model {bundle.name} makes no sense: {wrong}. Re-export it."
        ) from wrong


def _fits(value: object, hint: Any) -> bool:
    """Tell whether a value out of JSON is of a field's type."""
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is float:
        return type(value) in (int, float) and abs(cast("float", value)) < _LARGE
    return type(value) is hint and (hint is not int or abs(cast("int", value)) < _LARGE)


def _filled(make: Callable[[], M], weights: dict[str, Tensor], bundle: Bundle) -> M:
    """Make a module and load its weights, all and no others; counters that only training reads aside.

    A first one is made of shapes alone: what a bundle says costs no memory before its weights bear it out.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    wanted = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    wrong = [n for n in wanted.keys() | weights.keys() if n not in weights or n not in wanted]
    wrong += [n for n in wanted.keys() & weights.keys() if wanted[n] != weights[n].shape]
    if wrong:
        raise BundleError(
            f"the weights of model {bundle.name} don't fit its description: {', '.join(sorted(wrong)[:5])}."
        )
    module = make()
    module.load_state_dict(weights, strict=False)
    return module
