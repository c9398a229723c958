"""The interface to the model: pixels in, captions out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captioning.calibration import EVIDENCE, Calibration, is_unlike
from captioning.errors import DeviceFailed, DeviceOutOfMemory, ServiceUnavailable
from captioning.features import pack_vectors
from captioning.model.concept_names import ConceptNames
from captioning.model.concepts import ConceptClassifier, Concepts
from captioning.model.decoder import CaptionDecoder
from captioning.model.demand import Demand
from captioning.model.gender import NeutralWords
from captioning.model.hypotheses import Hypothesis, hypotheses_of
from captioning.model.likeness import Likeness
from captioning.model.pixels import Pixels, Preprocessing
from captioning.model.presence import AbsentWords, Presence, least_present
from captioning.model.search.beam import Loop, searched_images
from captioning.model.search.captions import BatchSearch, CaptionSearch
from captioning.model.search.layers import SearchPrecision
from captioning.model.vocabulary import PAD, START, Vocabulary
from captioning.values import Alternative, Caption, DecodeOptions
from captioning.word_groups import THINGS

GridEncoder = Callable[[Tensor], Tensor]
"""uint8 pixels (B, S, S, 3) -> grid features (B, N, 2048) in float32, on the decoder's device."""

NOTHING = Caption("", ())
"""The caption of an image for which the model computed no numbers: not even its end has a probability."""

_DEVICE_ERRORS = (
    "CUDA error",
    "CUDNN_STATUS_",
    "CUBLAS_STATUS_",
    "MPS backend",
    "Metal ",
)  # in messages that torch raises as RuntimeError


@dataclass(frozen=True)
class Captioner:
    """A loaded model. Not safe for several threads at once."""

    encode: GridEncoder
    decoder: CaptionDecoder
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    calibration: Calibration = field(default_factory=Calibration)
    neutral: NeutralWords | None = None
    classifier: ConceptClassifier | None = None  # of a decoder that reads concepts
    demand: Demand | None = None  # a concept that captions must name
    likeness: Likeness | None = None  # to the training images
    presence: Presence | None = None  # of people and dogs
    absent: AbsentWords | None = None  # words that captions must not have
    search_precision: SearchPrecision = "fp32"  # of the decoder's layers
    loop: Loop = searched_images  # that advances a search word by word

    def caption(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        """Return one caption per image, in order. Each image is (S, S, 3) uint8, as `open_image` returns it.

        A caption has no text if the model computes no numbers for its image, which is tried twice. Raises
        DeviceOutOfMemory and DeviceFailed.
        """
        if not images:
            return []
        try:
            return self._with_numbers(images, self._caption_once(images, options), options)
        except RuntimeError as failure:
            error = device_error(failure)
            if error is None:
                raise
        empty_cache()  # outside the except block, where the failed call no longer references its tensors
        raise error

    def _caption_once(self, images: Sequence[Pixels], options: DecodeOptions) -> list[Caption]:
        on_gpu = self.decoder.bias.is_cuda  # which reads pinned memory; a copy into it would be one more
        pixels = torch.empty(len(images), *images[0].shape, dtype=torch.uint8, pin_memory=on_gpu)
        np.stack(images, out=pixels.numpy())
        with torch.inference_mode():
            features = self.encode(pixels)
        return self.caption_features(features, options)

    def _with_numbers(self, images: Sequence[Pixels], captions: list[Caption], options: DecodeOptions) -> list[Caption]:
        """Caption the images without text again. Raises DeviceFailed if that helps none of several, and all are so."""
        rows = [row for row, caption in enumerate(captions) if not caption.text]
        if not rows:
            return captions
        again = self._caption_once([images[row] for row in rows], options)
        if len(images) > 1 and len(rows) == len(images) and not any(caption.text for caption in again):
            raise DeviceFailed(f"the model computed no numbers for any of {len(images)} images")
        for row, caption in zip(rows, again, strict=True):
            captions[row] = caption
        return captions

    @torch.inference_mode()
    def caption_features(self, features: Tensor, options: DecodeOptions) -> list[Caption]:
        """Return one caption for each row of grid features (B, N, 2048), without text where there are no numbers."""
        probabilities = concepts = None
        mean = features.float().mean(1, keepdim=True)  # (B, 1, 2048), all that the small classifiers read
        if self.classifier is not None:
            probabilities = self.classifier.probabilities(mean)
            concepts = self.classifier.concepts(probabilities)
        present = None if self.presence is None else self.presence(mean)
        excluded = None if self.absent is None or present is None else self.absent.of(present)
        found = self._found(self._search.begin(features, concepts, excluded, options), probabilities)
        distances = None if self.likeness is None else self.likeness(mean)
        evidence = self._evidence([best for best, *_ in found], probabilities, distances, present)
        means = mean.squeeze(1).cpu().numpy()
        finite = np.isfinite(means).all(1)
        vectors = pack_vectors(np.where(finite[:, None], means, 0) if not finite.all() else means)
        captions = [self._caption(*parts) for parts in zip(found, evidence, vectors, strict=True)]
        captions = [c if is_finite and c.text else NOTHING for c, is_finite in zip(captions, finite, strict=True)]
        return self._with_attention(captions, features, concepts) if options.attention else captions

    def _found(self, search: BatchSearch, probabilities: Tensor | None) -> list[list[Hypothesis]]:
        """Search the captions of a batch, and those that lack a concept that is demanded again."""
        found = hypotheses_of(search.best(), self.vocabulary)
        if self.demand is None or probabilities is None:
            return found
        rows, phrases = self.demand.missing(probabilities, [best.text for best, *_ in found])
        if rows:
            again = search.with_phrases(rows, phrases)
            scores = again.scores[:, 0].tolist()
            for row, score, hypotheses in zip(rows, scores, hypotheses_of(again, self.vocabulary), strict=True):
                found[row] = hypotheses if score > float("-inf") else found[row]
        return found

    def _evidence(
        self,
        found: Sequence[Hypothesis],
        probabilities: Tensor | None,
        distances: Tensor | None,
        present: Tensor | None,
    ) -> list[tuple[float, ...]]:
        """Return what is known of each caption and its image, in the order of EVIDENCE.

        `probabilities` are those of the concepts, `present` those of THINGS.
        """
        texts = [caption.text for caption in found]
        known: dict[str, Sequence[float]] = {"log_probability": [caption.mean_log_probability for caption in found]}
        if self.names is not None and probabilities is not None:
            seen = probabilities.cpu().numpy()
            known |= {"named": self.names.probabilities(texts, seen), "surest": seen.max(1).tolist()}
        if distances is not None:
            known["distance"] = distances.tolist()
        if present is not None:
            known["present"] = [least_present(*parts) for parts in zip(texts, present.tolist(), strict=True)]
            known |= dict(zip(THINGS, present.T.tolist(), strict=True))
        nothing = [0.0] * len(found)
        return list(zip(*(known.get(name, nothing) for name in EVIDENCE), strict=True))

    def _with_attention(self, captions: list[Caption], features: Tensor, concepts: Concepts | None) -> list[Caption]:
        """Add to captions of images (B, N, 2048) where the decoder looked when it chose each word."""
        ids = [torch.tensor([START, *self.vocabulary.encode(caption.text.split())]) for caption in captions]
        words = pad_sequence(ids, batch_first=True, padding_value=PAD).to(features.device)
        weights = self.decoder.attention(features, words, concepts)
        if weights is None:
            return captions
        scaled = (255 * weights.float() / weights.float().amax(-1, keepdim=True)).round().byte().cpu().numpy()
        return [
            replace(caption, attention=of_words[: len(of_caption) - 1].tobytes())  # after START: for the first word
            for caption, of_words, of_caption in zip(captions, scaled, ids, strict=True)
        ]

    def _caption(self, found: Sequence[Hypothesis], evidence: tuple[float, ...], vector: bytes) -> Caption:
        """Return the best of an image's hypotheses, with the others, and what is known of the image."""
        best, *others = found
        of_image = dict(zip(EVIDENCE, evidence, strict=True))
        unlike = None if self.likeness is None else is_unlike(of_image["distance"], of_image["surest"])
        alternatives = tuple(Alternative(other.text, round(other.log_probability, 4)) for other in others)
        return Caption(
            best.text, best.log_probabilities, alternatives, self.calibration.of_caption(evidence), unlike, evidence,
            vector,
        )  # fmt: skip

    @cached_property
    def names(self) -> ConceptNames | None:
        """Find concepts in captions, where the model has them."""
        return None if self.classifier is None else ConceptNames(self.classifier)

    @cached_property
    def _search(self) -> CaptionSearch:
        return CaptionSearch.of(self.decoder, self.vocabulary, self.neutral, self.search_precision, self.loop)


def empty_cache() -> None:
    """Give memory that is not in use back to the device."""
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


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
