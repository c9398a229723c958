"""Model bundles: find them and read their descriptions. This module does not import torch.

A bundle is a folder: `bundle.json` (decoder sizes, vocabulary, preprocessing, metrics, provenance, digests of the
weight files), `decoder.safetensors` and `CARD.md`. The weights of its encoder, and of the encoder's classifier where
the decoder reads concepts, are in the same folder or, shared with other bundles, in `../encoders/` under their
digests. The digest of `bundle.json` identifies the model.
"""

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from captioning.errors import BundleError, UsageError
from captioning.terminal import printable
from captioning.values import PREPROCESSING_VERSION, digest_of

FORMAT = 2  # 1: without concepts, and with a confidence that holds for images like the training images only
BUILT_IN = Path(__file__).parent / "bundled"
_MAX_BYTES = 64_000_000  # of a bundle.json; half a million words take 10 MB


def _known_format(number: int) -> int:
    if number > FORMAT:
        raise ValueError(f"this version reads bundles of format {FORMAT}, not {number}")
    return number


def _printable_name(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must consist of printable characters")
    return name


class _Part(BaseModel):
    """A part of `bundle.json`. Fields that are not declared may have any value."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class _DecoderPart(_Part):
    cell: str  # and what else a DecoderConfig has, which captioning.model.load_bundle checks


class _EncoderPart(_Part):
    stride: str


class _WeightsPart(_Part):
    """SHA-256 digests of the weight files."""

    decoder: str = Field(pattern="^[0-9a-f]{64}$")
    encoder: str = Field(pattern="^[0-9a-f]{64}$")
    classifier: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    likeness: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    presence: str | None = Field(None, pattern="^[0-9a-f]{64}$")


class _MetricsPart(_Part):
    val: dict[str, Any] = {}


class BundleDescription(_Part):
    """The content of `bundle.json`, as far as code without torch relies on it."""

    format: Annotated[int, AfterValidator(_known_format)]
    name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable_name)]
    decoder: _DecoderPart
    encoder: _EncoderPart
    vocabulary: list[Any]  # the words, which captioning.model.vocabulary checks
    concepts: list[str] | None = None  # the phrase of each of the classifier's classes
    preprocessing: dict[str, Any]  # of captioning.model.pixels
    weights: _WeightsPart
    metrics: _MetricsPart = _MetricsPart()
    provenance: dict[str, Any] = {}


@dataclass(frozen=True)
class Bundle:
    """A trained model on disk. Its description is read and valid; its weights are not read yet."""

    folder: Path
    digest: str  # SHA-256 of bundle.json, which contains the digests of the weights
    description: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """What people call the model, for example `lstm`."""
        return str(self.description["name"])

    @property
    def attends(self) -> bool:
        """Whether the decoder looks at places of the image word by word, so that these can be recorded."""
        return bool(self.description["decoder"].get("kind", "attention") == "attention")

    @property
    def card(self) -> dict[str, Any]:
        """The description without the lists of words: what the store keeps beside the captions."""
        return {key: value for key, value in self.description.items() if key not in ("vocabulary", "concepts")}

    @property
    def description_file(self) -> Path:
        """The file that the description was read from."""
        return self.folder / "bundle.json"

    @property
    def decoder_file(self) -> Path:
        """The decoder's weights."""
        return self.folder / "decoder.safetensors"

    @property
    def encoder_digest(self) -> str:
        """SHA-256 of the encoder's weights, which several bundles may share."""
        return str(self.description["weights"]["encoder"])

    @property
    def encoder_file(self) -> Path:
        """The encoder's weights: in the bundle, or else in `encoders` beside it."""
        return self._shared("encoder")

    @property
    def classifier_file(self) -> Path | None:
        """The weights of the encoder's classifier, where they are also; None if the decoder reads no concepts."""
        return self._shared("classifier") if self.description["weights"].get("classifier") else None

    @property
    def likeness_file(self) -> Path | None:
        """What compares images with the training images, where it is; None if the model does not compare them."""
        return self._shared("likeness") if self.description["weights"].get("likeness") else None

    @property
    def presence_file(self) -> Path | None:
        """What tells whether an image shows people and dogs; None if the model does not ask."""
        return self._shared("presence") if self.description["weights"].get("presence") else None

    def probability(self, option: str) -> float | None:
        """Return an option of the description that is a probability, None without it. Raises BundleError."""
        value = self.description.get(option)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise self.damaged(f"{option}: must be a probability above 0, at most 1, not {value!r}")
        return float(value)

    def _shared(self, part: str) -> Path:
        own, digest = self.folder / f"{part}.safetensors", self.description["weights"][part]
        return own if own.exists() else self.folder.parent / "encoders" / f"{digest[:16]}.safetensors"

    @property
    def encoder_key(self) -> str:
        """Identify the loaded encoder: its weights, its stride, and the image size and normalisation built into it."""
        parts = {key: self.description[key] for key in ("encoder", "preprocessing")}
        return f"{self.encoder_digest[:16]}-{digest_of(parts)[:8]}"

    def verify(self) -> None:
        """Raise BundleError unless all weight files exist and have the digests that the description gives."""
        files = {
            "decoder": self.decoder_file, "encoder": self.encoder_file, "classifier": self.classifier_file,
            "likeness": self.likeness_file, "presence": self.presence_file,
        }  # fmt: skip
        for part, path in files.items():
            if path is None:
                continue
            expected, found = str(self.description["weights"][part]), file_digest(path)
            if found != expected:
                raise BundleError(
                    f"the {part} of model {self.name} has digest {found[:16]}, not {expected[:16]} as in its bundle:"
                    f" {path}. Reinstall or re-export the bundle."
                )

    def require_current(self) -> None:
        """Raise BundleError when the bundle is for images that are prepared as in another version, or too old."""
        again = f"Export it again from its run: `training export --run RUN --name {shlex.quote(self.name)} -o FOLDER`."
        if (number := self.description["format"]) != FORMAT:
            raise BundleError(
                f"{self.description_file}: format: this captionmill reads bundles of format {FORMAT}, not {number}."
                f" {again}"
            )
        version = self.description["preprocessing"].get("version")
        if version == PREPROCESSING_VERSION:
            return
        outdated = isinstance(version, int) and version < PREPROCESSING_VERSION
        remedy = again if outdated else "Install the captionmill that exported it, or export it again."
        raise BundleError(
            f"{self.description_file}: preprocessing.version: this captionmill prepares images as in version"
            f" {PREPROCESSING_VERSION}, not {version!r}. {remedy}"
        )

    def damaged(self, message: str) -> BundleError:
        """Return the error for a description that cannot be used."""
        return _damaged(self.description_file, message)


class Bundles(dict[str, Bundle]):
    """The models that can caption, by name, and those that cannot until they are exported again."""

    def __init__(self) -> None:
        super().__init__()
        self.outdated: dict[str, BundleError] = {}

    def add(self, bundle: Bundle) -> None:
        """Add a bundle in the place of an earlier one of its name."""
        self.pop(bundle.name, None)
        self.outdated.pop(bundle.name, None)
        try:
            bundle.require_current()
            self[bundle.name] = bundle
        except BundleError as error:
            self.outdated[bundle.name] = error

    def report_outdated(self) -> None:
        """Report the models that cannot caption on standard error."""
        for error in self.outdated.values():
            _report_left_out(error)


def read_bundle(folder: Path) -> Bundle:
    """Read one bundle. Raises BundleError when it is missing, damaged or of another format."""
    path = folder / "bundle.json"
    try:
        text = _read(path)
        description = _parse(text)
        BundleDescription.model_validate(description)
    except OSError as error:
        raise BundleError(
            f"no model bundle at {folder} ({error.strerror}). Make one with `training export`."
        ) from error
    except ValidationError as error:
        raise _damaged(path, first_error(error)) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    return Bundle(folder, hashlib.sha256(text).hexdigest(), description)


def first_error(error: ValidationError, *parents: str) -> str:
    """Return pydantic's first error as one line: the field, below its parents, and what is wrong with it."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = printable(".".join(map(str, (*parents, *first["loc"]))))
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message[:1].lower()}{message[1:]}"


def _damaged(path: Path, message: str) -> BundleError:
    return BundleError(f"{path}: {message}. Re-export the bundle.")


def _read(path: Path) -> bytes:
    """Read `bundle.json`. Raises ValueError when it is a pipe, which would block, or larger than any real one."""
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes")
    return text


def _parse(text: bytes) -> dict[str, Any]:
    """Parse a JSON object that any database can store: finite numbers, and UTF-8 strings without NUL."""

    def finite(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise ValueError(f"{digits[:20]} is not a finite number")
        return number

    try:
        value = json.loads(text, parse_float=finite, parse_constant=finite)
        again = json.dumps(value, ensure_ascii=False)
        again.encode()  # raises ValueError for half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from error
    if "\\u0000" in again:
        raise ValueError("a string contains NUL")
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def find_bundles(folders: Iterable[Path] = ()) -> Bundles:
    """Return the available bundles by name: built-in ones, then those in (or at) `folders`, which take precedence.

    A bundle that cannot be read is reported on standard error and left out. One of an earlier format, or for another
    version of the preprocessing, is not reported until somebody asks for it: it disturbs nobody who uses another model.
    """
    found = Bundles()
    for folder in (BUILT_IN, *folders):
        for path in sorted({folder, *folder.glob("*/")}):
            try:
                if (path / "bundle.json").exists():
                    found.add(read_bundle(path))
            except (BundleError, PermissionError) as error:
                _report_left_out(error)
    return found


def _report_left_out(error: Exception) -> None:
    print(f"left out: {printable(str(error))}", file=sys.stderr)


def named(name: str, bundles: Bundles) -> Bundle:
    """Return the bundle of that name. Raises UsageError when there is none, BundleError when it is outdated."""
    if name in bundles.outdated:
        raise bundles.outdated[name]
    if name not in bundles:
        available = ", ".join(sorted(bundles)) or "none"
        raise UsageError(f"no model named {name!r}; available: {available} (`producer models` shows details).")
    return bundles[name]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises BundleError when it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise BundleError(f"{path} is not a regular file. Reinstall or re-export the bundle.")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}. Reinstall or re-export the bundle.") from error
