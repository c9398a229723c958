"""Parts of a bundle's description as dataclasses, checked. This module does not import torch."""

import json
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from captioning.bundles import Bundle, first_error
from captioning.model.pixels import Preprocessing

T = TypeVar("T")


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
