"""The small values that every room speaks in: options, captions, reasons. No I/O, no libraries."""

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

Cell = Literal["lstm", "gru"]
"""The kinds of recurrent decoder."""


class Reason(StrEnum):
    """Why a picture has no caption."""

    UNREADABLE = "unreadable"  # not a picture, or damaged beyond reading
    TRUNCATED = "truncated"  # the file ends before the picture does
    UNSUPPORTED = "unsupported"  # a picture in a format that we don't open
    TOO_LARGE = "too_large"  # more bytes or pixels than the limits allow
    MISSING = "missing"  # gone since it was registered
    CHANGED = "changed"  # written to while we read it
    FORBIDDEN = "forbidden"  # no permission, or a path that leaves its root
    TIMEOUT = "timeout"  # decoding took too long, twice
    CRASHED = "crashed"  # decoding killed its process, twice


class ItemState(StrEnum):
    """Where one picture of a job stands."""

    PENDING = "pending"
    CAPTIONED = "captioned"  # the model ran on it for this job
    REUSED = "reused"  # its content had a caption by the same model and options
    FAILED = "failed"


class JobState(StrEnum):
    """Where a job stands."""

    REGISTERING = "registering"  # its folder is still being walked; workers may already begin
    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


class ChunkState(StrEnum):
    """Where a chunk, the unit that a worker claims, stands."""

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


@dataclass(frozen=True)
class DecodeOptions:
    """How words are chosen from the decoder's scores."""

    beam_size: int = 3  # sentences kept in parallel; 1 is greedy
    max_words: int = 22  # longest caption, in words
    min_words: int = 4  # shortest caption, in words
    length_power: float = 0.7  # a sentence scores sum(log p) / length ** length_power

    @property
    def digest(self) -> str:
        """What tells captions of one model made with different options apart."""
        return digest_of(asdict(self))[:16]


@dataclass(frozen=True)
class Alternative:
    """A sentence that the search liked less."""

    text: str
    log_probability: float  # nats, summed over words and the end mark


@dataclass(frozen=True)
class Caption:
    """What the model says about one picture."""

    text: str
    word_log_probabilities: tuple[float, ...]  # nats, one a word, and one for the end mark
    alternatives: tuple[Alternative, ...] = ()
    confidence: float = 0.0  # 0 to 1, as its model's calibration has it

    @property
    def log_probability(self) -> float:
        """Nats, summed over the words and the end mark."""
        return sum(self.word_log_probabilities)

    @property
    def mean_log_probability(self) -> float:
        """Nats a word, the end mark counted as one."""
        return self.log_probability / max(1, len(self.word_log_probabilities))

    @property
    def weakest_word(self) -> str:
        """The word that the model was least sure of."""
        words = self.text.split()
        if not words:
            return ""
        return min(zip(words, self.word_log_probabilities, strict=False), key=lambda pair: pair[1])[0]


@dataclass(frozen=True)
class PictureFacts:
    """What is known of a picture once it is opened; width and height in pixels, as a viewer shows it."""

    width: int
    height: int
    format: str
