"""Small values that every package uses: options, captions, states, reasons. No I/O, no third-party libraries."""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

Cell = Literal["lstm", "gru"]
"""The recurrent cell of a decoder."""

PREPROCESSING_VERSION = 2
"""Of what captioning.model.pixels does. Increased whenever the same file gives other pixels; a bundle that is described
with another version is refused."""


class Reason(StrEnum):
    """Why an image has no caption."""

    UNREADABLE = "unreadable"  # not an image, or damaged
    TRUNCATED = "truncated"  # the file ends before the image does
    UNSUPPORTED = "unsupported"  # an image in a format that is not decoded
    TOO_LARGE = "too_large"  # more bytes or pixels than the limits allow
    MISSING = "missing"  # deleted since it was registered
    CHANGED = "changed"  # modified while it was read
    FORBIDDEN = "forbidden"  # no permission, or a path that leaves its root
    TIMEOUT = "timeout"  # decoding took too long, repeatedly
    CRASHED = "crashed"  # decoding killed its process, repeatedly
    NO_RESULT = "no_result"  # the model computed no numbers for it, repeatedly


PERMANENT_REASONS = (Reason.UNREADABLE, Reason.TRUNCATED, Reason.UNSUPPORTED, Reason.TOO_LARGE)
"""Reasons that stay while the file stays as it is and no worker can decode more."""


class ItemState(StrEnum):
    """The state of one file in a job."""

    PENDING = "pending"
    CAPTIONED = "captioned"  # the model ran on it for this job
    REUSED = "reused"  # the same content already had a caption by this model and these options
    FAILED = "failed"


class JobState(StrEnum):
    """The state of a job."""

    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


class ChunkState(StrEnum):
    """The state of a chunk, the unit that a worker claims."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"


class Source(StrEnum):
    """Who wrote a caption."""

    MACHINE = "machine"
    HUMAN = "human"
    IMPORTED = "imported"


def digest_of(value: Any) -> str:
    """Return the SHA-256, in hex, of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()  # a word may be any bytes


def digest_of_pixels(pixels: bytes | memoryview) -> str:
    """Identify an image by its prepared pixels: 128 bits, and the version of the preparation."""
    return f"{PREPROCESSING_VERSION}:{hashlib.blake2b(pixels, digest_size=16).hexdigest()}"


def is_digest_of_pixels(text: str) -> bool:
    """Return whether a text has the form of a digest of pixels."""
    version, _, digest = text.partition(":")
    return version == str(PREPROCESSING_VERSION) and len(digest) == 32 and set(digest) <= set("0123456789abcdef")


@dataclass(frozen=True)
class DecodeOptions:
    """How beam search chooses words from the decoder's scores."""

    beam_size: int = 3  # hypotheses kept in parallel; 1 is greedy search
    max_words: int = 22  # longest caption, in words
    min_words: int = 4  # shortest caption, in words
    length_power: float = 0.7  # a hypothesis scores sum(log p) / length ** length_power
    attention: bool = False  # also return where the model looked for each word, which changes no caption

    @property
    def digest(self) -> str:
        """Identify these options: captions of one model with other options are other captions."""
        options = asdict(self)
        del options["attention"]
        return digest_of(options)[:16]


@dataclass(frozen=True)
class DecodeCapability:
    """Which image files a worker can decode."""

    formats: tuple[str, ...] = ()  # in alphabetical order
    version: int = 0  # of the preprocessing
    max_bytes: int = 0  # of a file
    max_pixels: int = 0
    max_side: int = 0  # pixels
    max_frames: int = 0

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "DecodeCapability":
        """Return what `to_text` has written, perhaps in another version of this program."""
        known = {key: value for key, value in json.loads(text).items() if key in cls.__dataclass_fields__}
        return cls(**(known | {"formats": tuple(known.get("formats", ()))}))

    def exceeds(self, other: "DecodeCapability", reason: str) -> bool:
        """Return whether a worker with this capability may decode a file that failed with the other for a reason."""
        limits = ("version", "max_bytes", "max_pixels", "max_side", "max_frames")
        if reason == Reason.TOO_LARGE:
            return any(getattr(self, name) > getattr(other, name) for name in limits)
        return self.version > other.version or not set(self.formats) <= set(other.formats)


@dataclass(frozen=True)
class Alternative:
    """A hypothesis of the beam search that came second or later."""

    text: str
    log_probability: float  # nats, summed over words and the end token


@dataclass(frozen=True)
class Caption:
    """A caption with the scores that the model gave it."""

    text: str
    word_log_probabilities: tuple[float, ...]  # nats, one per word and one for the end token
    alternatives: tuple[Alternative, ...] = ()
    confidence: float = 0.0  # 0 to 1, calibrated
    unlike: bool | None = None  # whether the image is unlike those that the model learned from; None: it cannot tell
    evidence: tuple[float, ...] = ()  # that the confidence is computed from, see captioning.calibration.EVIDENCE
    vector: bytes | None = None  # of its image, packed by captioning.features; None: not computed
    attention: bytes | None = None  # for each word, the weights of the grid's cells row by row, 255 for the largest

    @property
    def log_probability(self) -> float:
        """Nats, summed over the words and the end token."""
        return sum(self.word_log_probabilities)

    @property
    def mean_log_probability(self) -> float:
        """Nats per word, the end token counted as one."""
        return self.log_probability / max(1, len(self.word_log_probabilities))

    @property
    def weakest_word(self) -> str:
        """The word with the lowest probability."""
        words = self.text.split()
        scores = self.word_log_probabilities[: len(words)]
        return words[scores.index(min(scores))] if scores else ""


@dataclass(frozen=True)
class ImageInfo:
    """Facts about a decoded image. Width and height are in pixels, upright, as a viewer shows it."""

    width: int
    height: int
    format: str
    pixels: str | None = None  # digest of the prepared pixels: the same after an edit of metadata; None: not computed
