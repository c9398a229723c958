"""The parts of a bundle as modules, checked: wrong descriptions and weights end in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch.overrides import TorchFunctionMode

from captioning.bundles import Bundle
from captioning.model.concepts import ConceptClassifier
from captioning.model.decoder import CaptionDecoder, DecoderConfig, make_decoder
from captioning.model.descriptions import from_description, preprocessing_of
from captioning.model.encoder import CHANNELS, PixelsToGrid, ResNetEncoder, Stride
from captioning.model.likeness import Likeness
from captioning.model.presence import AbsentWords, Presence
from captioning.model.vocabulary import Vocabulary
from captioning.model.weights import load_weights
from captioning.terminal import printable

M = TypeVar("M", bound=torch.nn.Module)


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


def load_classifier(bundle: Bundle, decoder: CaptionDecoder, vocabulary: Vocabulary) -> ConceptClassifier | None:
    """Return what sees the concepts that a bundle's decoder reads; None if it reads none. Raises BundleError."""
    if not decoder.config.concepts:
        return None
    lines, path = bundle.description.get("concepts"), bundle.classifier_file
    if not lines or path is None:
        raise bundle.damaged("decoder.concepts: the decoder reads concepts, but the bundle has no classifier")
    phrases = [line.split(", ") for line in lines]
    count = decoder.config.concepts
    classifier = _with_weights(lambda: ConceptClassifier(CHANNELS, phrases, vocabulary, count), path, bundle)
    return classifier.eval().requires_grad_(False)


def load_likeness(bundle: Bundle) -> Likeness | None:
    """Return what compares images with a bundle's training images; None if it has none. Raises BundleError."""
    count, path = bundle.description.get("likeness"), bundle.likeness_file
    if path is None:
        return None
    if not isinstance(count, int) or not 1 <= count <= CHANNELS:
        raise bundle.damaged(f"likeness: must be a number of components from 1 to {CHANNELS}, not {count!r}")
    return _with_weights(lambda: Likeness(CHANNELS, count), path, bundle).eval().requires_grad_(False)


def load_presence(bundle: Bundle) -> Presence | None:
    """Return what tells whether an image shows people and dogs; None if a bundle has none. Raises BundleError."""
    path = bundle.presence_file
    if path is None:
        return None
    return _with_weights(lambda: Presence(CHANNELS), path, bundle).eval().requires_grad_(False)


def absent_words(bundle: Bundle, vocabulary: Vocabulary) -> AbsentWords | None:
    """Return what a bundle's option `absent` says; None without it. Raises BundleError for a wrong value."""
    share = bundle.probability("absent")
    return None if share is None or bundle.presence_file is None else AbsentWords(vocabulary, share)


def load_encoder(bundle: Bundle) -> PixelsToGrid:
    """Return a bundle's encoder, in evaluation mode, in float32, batch normalisation not folded. Raises BundleError."""
    preprocessing = preprocessing_of(bundle)
    stride = bundle.description["encoder"]["stride"]
    if stride not in get_args(Stride):
        raise bundle.damaged(f"encoder.stride: must be one of {', '.join(get_args(Stride))}, not {stride!r}")
    encoder = _with_weights(lambda: ResNetEncoder(stride), bundle.encoder_file, bundle)
    return PixelsToGrid(encoder.eval(), preprocessing.mean, preprocessing.std).eval()


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
    with _WithoutInitialisation():
        module = make()
    module.load_state_dict(weights, strict=False, assign=True)  # without a copy
    return module
