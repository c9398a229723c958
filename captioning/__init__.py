"""The shared core of captionmill: values, settings, the queue, the model and the store.

`Captioner` and `open_store` are for use from Python, see `captioning.api`. Nothing heavy is imported here, so that a
process loads only what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioning.api import Captioner, Store, open_store

__version__ = "0.1.0"
__all__ = ["Captioner", "Store", "open_store"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for."""
    if name in __all__:
        return getattr(import_module("captioning.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
