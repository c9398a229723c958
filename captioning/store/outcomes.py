"""The results that a worker has for the items of a batch."""

from dataclasses import dataclass, field

from captioning.store.claims import ClaimedItem
from captioning.values import Caption, DecodeCapability, ImageInfo, ItemState, Reason


@dataclass(frozen=True)
class Content:
    """What was read from a file."""

    sha256: str
    bytes: int
    info: ImageInfo | None  # None when the content has a caption already and was not decoded


@dataclass(frozen=True)
class Outcome:
    """The result for one item. `caption` is set when the model ran on it, `reason` when it failed.

    An item is also reused when its image gets the caption of a near-duplicate, `shared_from`.
    """

    item: ClaimedItem
    state: ItemState
    content: Content | None = None
    caption: Caption | None = None
    reason: Reason | None = None
    detail: str | None = None
    is_permanent: bool = False  # it fails again while the file and what the worker can decode stay the same
    thumbnail: bytes | None = None  # of the image, where it was decoded
    shared_from: str | None = None  # SHA-256 of the content of the near-duplicate


@dataclass(frozen=True)
class Provenance:
    """What is stored with every machine caption about how it was made."""

    runtime: str
    precision: str
    software: str
    capability: DecodeCapability = field(default_factory=DecodeCapability)  # stored with failed files
    encoder: str = ""  # that sees the features, by its key
