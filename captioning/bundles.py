"""Model bundles: finds and reads them, without torch.

A bundle is a folder: `bundle.json` (decoder shape, vocabulary, preprocessing, metrics, provenance, digests of
the weight files), `decoder.safetensors`, `CARD.md`. Its encoder lies in the bundle's own folder or, shared
with its neighbours, in `../encoders/`, under its digest. The digest of `bundle.json` names the model.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioning.errors import BundleError, UsageError

FORMAT = 1
BUILT_IN = Path(__file__).parent / "bundled"
_NEEDED = ("name", "decoder", "encoder", "vocabulary", "preprocessing", "weights")


@dataclass(frozen=True)
class Bundle:
    """A trained model on disk, its `bundle.json` read, its weights not."""

    folder: Path
    digest: str  # SHA-256 of bundle.json, which holds the digests of the weights
    description: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """What people call the model, `flickr8k-lstm` say."""
        return str(self.description["name"])

    @property
    def card(self) -> dict[str, Any]:
        """What is worth keeping beside captions: all but the vocabulary."""
        return {key: value for key, value in self.description.items() if key != "vocabulary"}

    @property
    def decoder_file(self) -> Path:
        """The decoder's weights."""
        return self.folder / "decoder.safetensors"

    @property
    def encoder_digest(self) -> str:
        """SHA-256 of the encoder's weights; decoders may share them."""
        return str(self.description["weights"]["encoder"])

    @property
    def encoder_file(self) -> Path:
        """The encoder's weights: in the bundle, else in `encoders` beside it."""
        own = self.folder / "encoder.safetensors"
        return own if own.exists() else self.folder.parent / "encoders" / f"{self.encoder_digest[:16]}.safetensors"

    def verify(self) -> None:
        """Raise BundleError unless both weight files are there and are those that the bundle names."""
        for part, path in (("decoder", self.decoder_file), ("encoder", self.encoder_file)):
            expected, found = str(self.description["weights"][part]), file_digest(path)
            if found != expected:
                raise BundleError(
                    f"the {part} of model {self.name} has digest {found[:16]}, its bundle says {expected[:16]}: {path}."
                    " Reinstall or re-export the bundle."
                )


def read_bundle(folder: Path) -> Bundle:
    """Read one bundle. Raises BundleError when it is missing, damaged or of another format."""
    path = folder / "bundle.json"
    try:
        text = path.read_bytes()
        description = json.loads(text)
    except OSError as trouble:
        raise BundleError(
            f"no model bundle at {folder} ({trouble.strerror}). Make one with `training export`."
        ) from trouble
    except ValueError as trouble:
        raise BundleError(f"{path} is not JSON: {trouble}. Reinstall or re-export the bundle.") from trouble
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BundleError(f"{path} is not a bundle of format {FORMAT}, which this version reads.")
    missing = [key for key in _NEEDED if key not in description]
    if missing:
        raise BundleError(f"{path} lacks {', '.join(missing)}. Re-export the bundle.")
    parts = [description[key] for key in ("decoder", "encoder", "preprocessing", "weights")]
    words = description["vocabulary"]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(words, list):
        raise BundleError(f"{path} is damaged: its parts have the wrong shape. Re-export the bundle.")
    lacking = [
        key
        for part, key in (("decoder", "cell"), ("weights", "decoder"), ("weights", "encoder"))
        if key not in description[part]
    ]
    if lacking or "stride" not in description["encoder"]:
        raise BundleError(
            f"{path} is damaged: it doesn't say {', '.join(lacking or ['stride'])}. Re-export the bundle."
        )
    return Bundle(folder, hashlib.sha256(text).hexdigest(), description)


def find_bundles(folders: Iterable[Path] = ()) -> dict[str, Bundle]:
    """Return the bundles at hand by name: those built in, then those in (or at) `folders`, which win."""
    found: dict[str, Bundle] = {}
    for folder in (BUILT_IN, *folders):
        for path in sorted({folder, *folder.glob("*/")}):
            if (path / "bundle.json").exists():
                try:
                    bundle = read_bundle(path)
                except BundleError as broken:
                    print(f"left out: {broken}", file=sys.stderr)  # one broken model is no reason to lose the others
                    continue
                found[bundle.name] = bundle
    return found


def named(name: str, bundles: dict[str, Bundle]) -> Bundle:
    """Return the bundle of that name. Raises UsageError when there is none."""
    if name not in bundles:
        at_hand = ", ".join(sorted(bundles)) or "none"
        raise UsageError(f"no model named {name!r}; at hand: {at_hand} (`producer models` tells more).")
    return bundles[name]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises BundleError when it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as trouble:
        raise BundleError(f"can't read {path}: {trouble.strerror}. Reinstall or re-export the bundle.") from trouble
