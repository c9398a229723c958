"""Model bundles: finds and reads them, without torch.

A bundle is a folder: `bundle.json` (decoder shape, vocabulary, preprocessing, metrics, provenance, digests of
the weight files), `decoder.safetensors`, `CARD.md`. Its encoder lies in the bundle's own folder or, shared
with its neighbours, in `../encoders/`, under its digest. The digest of `bundle.json` names the model.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioning.errors import BundleError, UsageError
from captioning.terminal import printable

FORMAT = 1
BUILT_IN = Path(__file__).parent / "bundled"
_NEEDED = ("name", "decoder", "encoder", "vocabulary", "preprocessing", "weights")
_MOST_BYTES = 64_000_000  # of a bundle.json; half a million words take ten
_DIGEST = re.compile("[0-9a-f]{64}")


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
        text = _read(path)
        description = _parse(text)
    except OSError as error:
        raise BundleError(
            f"no model bundle at {folder} ({error.strerror}). Make one with `training export`."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}. Reinstall or re-export the bundle.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BundleError(f"{path} is not a bundle of format {FORMAT}, which this version reads.")
    missing = [key for key in _NEEDED if key not in description]
    if missing:
        raise BundleError(f"{path} lacks {', '.join(missing)}. Re-export the bundle.")
    fault = next(_faults(description), None)
    if fault:
        raise BundleError(f"{path} is damaged: {fault}. Re-export the bundle.")
    return Bundle(folder, hashlib.sha256(text).hexdigest(), description)


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")  # nobody waits for a pipe
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES} bytes")
    return text


def _parse(text: bytes) -> Any:
    """Read JSON that any database takes back: numbers are finite, texts are UTF-8 and hold no NUL."""

    def finite(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise ValueError(f"{digits[:20]} is no number")
        return number

    value = json.loads(text, parse_float=finite, parse_constant=finite)
    again = json.dumps(value, ensure_ascii=False)
    again.encode()  # raises ValueError at half a character
    if "\\u0000" in again:
        raise ValueError("a text with a NUL")
    return value


def _faults(description: dict[str, Any]) -> Iterator[str]:
    """Yield what of a description's shape would be in the way of those who read it."""
    name = description["name"]
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 100:
        yield "its name is no name"
    for key in ("decoder", "encoder", "preprocessing", "weights", "metrics", "provenance"):
        if not isinstance(description.get(key, {}), dict):
            yield f"{key} has the wrong shape"
    if not isinstance(description["vocabulary"], list):
        yield "vocabulary has the wrong shape"
    for key, part in (("decoder", "cell"), ("encoder", "stride"), ("weights", "decoder"), ("weights", "encoder")):
        if not isinstance(description[key].get(part), str):
            yield f"{key} doesn't say {part}"
    if not all(_DIGEST.fullmatch(description["weights"][part]) for part in ("decoder", "encoder")):
        yield "a digest of its weights is none"
    if not isinstance(description.get("metrics", {}).get("val", {}), dict):
        yield "metrics has the wrong shape"


def find_bundles(folders: Iterable[Path] = ()) -> dict[str, Bundle]:
    """Return the bundles at hand by name: those built in, then those in (or at) `folders`, which win."""
    found: dict[str, Bundle] = {}
    for folder in (BUILT_IN, *folders):
        for path in sorted({folder, *folder.glob("*/")}):
            try:
                if (path / "bundle.json").exists():
                    bundle = read_bundle(path)
                    found[bundle.name] = bundle
            except (BundleError, PermissionError) as broken:  # which is no reason to lose the others
                print(f"left out: {printable(str(broken))}", file=sys.stderr)
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
        if path.exists() and not path.is_file():
            raise BundleError(f"{path} is not a regular file. Reinstall or re-export the bundle.")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror}. Reinstall or re-export the bundle.") from error
