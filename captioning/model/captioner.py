"""The interface to the model: pixels in, captions out. Loads decoder and encoder from a bundle."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captioning.bundles import Bundle, first_error
from captioning.calibration import Calibration
from captioning.errors import DeviceFailed, DeviceOutOfMemory, ServiceUnavailable
from captioning.model.beam import BeamResult, State, beam_search
from captioning.model.decoder import CaptionDecoder, DecoderConfig, make_decoder
from captioning.model.encoder import CHANNELS, PixelsToGrid, ResNetEncoder, Stride
from captioning.model.gender import NeutralWords
from captioning.model.pixels import Pixels, Preprocessing
from captioning.model.vocabulary import Vocabulary
from captioning.model.weights import load_weights
from captioning.terminal import printable
from captioning.values import Alternative, Caption, DecodeOptions

T = TypeVar("T")
M = TypeVar("M", bound=torch.nn.Module)
GridEncoder = Callable[[Tensor], Tensor]
"""uint8 pixels (B, S, S, 3) -> grid features (B, N, 2048) in float32, on the decoder's device."""

_DEVICE_ERRORS = ("CUDA error", "CUDNN_STATUS_", "CUBLAS_STATUS_")  # in messages that torch raises as RuntimeError


@dataclass(frozen=True)
class Captioner:
    """A loaded model. Not safe for several threads at once."""

    encode: GridEncoder
    decoder: CaptionDecoder
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    calibration: Calibration = field(default_factory=Calibration)
    neutral: NeutralWords | None = None

    def caption(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        """Return one caption per image, in order. Each image is (S, S, 3) uint8, as `open_image` returns it.

        Raises DeviceOutOfMemory and DeviceFailed.
        """
        if not images:
            return []
        try:
            with torch.inference_mode():
                features = self.encode(torch.from_numpy(np.stack(images)))
                return self.caption_features(features, options)
        except RuntimeError as failure:
            error = device_error(failure)
            if error is None:
                raise
        torch.cuda.empty_cache()  # outside the except block, where the failed call no longer references its tensors
        raise error

    def caption_features(self, features: Tensor, options: DecodeOptions) -> list[Caption]:
        """Return one caption for each row of grid features (B, N, 2048)."""
        memory, state = self.decoder.start(features)

        def step(words: Tensor, s: State) -> tuple[Tensor, State]:
            logp, s = self.decoder.step(words, s, memory)
            return logp if self.neutral is None else self.neutral.apply(logp), s

        found = beam_search(step, state, options)
        return _captions(found, self.vocabulary, self.calibration)


def device_error(failure: RuntimeError) -> ServiceUnavailable | None:
    """Translate an error of torch; None when the device is not the cause.

    After an AcceleratorError the CUDA context is lost: every later call in this process fails too.
    """
    message = (str(failure) or type(failure).__name__).splitlines()[0]
    out_of_memory = "out of memory" in message or "CUBLAS_STATUS_ALLOC_FAILED" in message
    if isinstance(failure, torch.OutOfMemoryError) or out_of_memory:
        return DeviceOutOfMemory(message)
    if isinstance(failure, torch.AcceleratorError) or any(sign in message for sign in _DEVICE_ERRORS):
        return DeviceFailed(message)
    return None


def _captions(found: BeamResult, vocabulary: Vocabulary, calibration: Calibration) -> list[Caption]:
    captions = []
    for words, logps, scores in zip(
        found.words.tolist(), found.log_probabilities.tolist(), found.scores.tolist(), strict=True
    ):
        texts = [vocabulary.decode(hypothesis) for hypothesis in words]
        alternatives = tuple(
            Alternative(" ".join(text), round(sum(logp), 4))
            for text, logp, score in zip(texts[1:], logps[1:], scores[1:], strict=True)
            if score > float("-inf")
        )
        word_logps = tuple(round(logp, 4) for logp in logps[0][: len(texts[0]) + 1])
        captions.append(Caption(" ".join(texts[0]), word_logps, alternatives, calibration.of_caption(word_logps)))
    return captions


def load_decoder(bundle: Bundle) -> tuple[CaptionDecoder, Vocabulary]:
    """Return a bundle's decoder, in evaluation mode, and its vocabulary. Raises BundleError."""
    config = from_description(DecoderConfig, "decoder", bundle)
    try:
        vocabulary = Vocabulary(tuple(bundle.description["vocabulary"]))
    except ValueError as error:
        raise bundle.damaged(f"vocabulary: {error}") from error
    if len(vocabulary) != config.vocabulary_size:
        raise bundle.damaged(f"vocabulary: it has {len(vocabulary)} words, the decoder needs {config.vocabulary_size}")
    if config.feature_size != CHANNELS:
        raise bundle.damaged(
            f"decoder.feature_size: must be {CHANNELS}, as encoders compute, not {config.feature_size}"
        )
    decoder = _with_weights(lambda: make_decoder(config), bundle.decoder_file, bundle)
    return decoder.eval(), vocabulary


def load_encoder(bundle: Bundle) -> PixelsToGrid:
    """Return a bundle's encoder, in evaluation mode, in float32, batch normalisation not folded. Raises BundleError."""
    preprocessing = preprocessing_of(bundle)
    stride = bundle.description["encoder"]["stride"]
    if stride not in get_args(Stride):
        raise bundle.damaged(f"encoder.stride: must be one of {', '.join(get_args(Stride))}, not {stride!r}")
    encoder = _with_weights(lambda: ResNetEncoder(stride), bundle.encoder_file, bundle)
    return PixelsToGrid(encoder.eval(), preprocessing.mean, preprocessing.std).eval()


def preprocessing_of(bundle: Bundle) -> Preprocessing:
    """Return how images are prepared for a bundle. Raises BundleError for another version of the preprocessing."""
    bundle.require_current()
    return from_description(Preprocessing, "preprocessing", bundle)


def from_description(kind: type[T], part: str, bundle: Bundle) -> T:
    """Make a dataclass from a part of the description, with exact types and no other fields. Raises BundleError."""
    text = json.dumps(bundle.description[part])  # only from JSON does strict validation take a list for a tuple
    try:
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise bundle.damaged(first_error(error, part)) from error


class _WithoutInitialisation(TorchFunctionMode):
    """Makes the functions of `torch.nn.init` return their tensor as it is.

    On a module without memory they have no effect, but the first of them imports torch's compiler: two seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _with_weights(make: Callable[[], M], path: Path, bundle: Bundle) -> M:
    """Make a module and load its weights from a file: all and no others, except counters that only training reads.

    The shapes are compared first, on a module without memory: a description costs none before its weights fit.
    """
    weights = load_weights(path)
    with torch.device("meta"), _WithoutInitialisation():
        shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    wanted = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    wrong = list(wanted.keys() ^ weights.keys())
    wrong += [name for name in wanted.keys() & weights.keys() if wanted[name] != weights[name].shape]
    if wrong:
        raise bundle.damaged(f"it does not fit the weights in {path.name}: {printable(', '.join(sorted(wrong)[:5]))}")
    module = make()
    module.load_state_dict(weights, strict=False)
    return module
