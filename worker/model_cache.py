"""The models that a worker has loaded; those that share an encoder share it in memory too."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from captioning.bundles import Bundle
from captioning.errors import BundleError
from captioning.model.captioner import Captioner, GridEncoder
from captioning.model.runtime import Runtime, load_captioner
from captioning.values import DecodeOptions

log = structlog.get_logger()


@dataclass(frozen=True)
class ModelCache:
    """Bundles by digest, loaded when first needed."""

    bundles: dict[str, Bundle]
    runtime: Runtime
    cache: Path
    captioners: dict[str, Captioner]
    encoders: dict[str, GridEncoder]

    @classmethod
    def of(cls, bundles: dict[str, Bundle], runtime: Runtime, cache: Path) -> "ModelCache":
        """Return the bundles, none loaded yet; `cache` keeps what the runtime compiles."""
        return cls({b.digest: b for b in bundles.values()}, runtime, cache, {}, {})

    def captioner(self, digest: str) -> Captioner:
        """Return a loaded and warmed-up model. Raises BundleError."""
        if digest not in self.captioners:
            if digest not in self.bundles:
                raise BundleError(f"no bundle with digest {digest[:16]} at this worker.")
            self.captioners[digest] = self._load(self.bundles[digest])
        return self.captioners[digest]

    def _load(self, bundle: Bundle) -> Captioner:
        started = time.monotonic()
        bundle.verify()
        kept = self.cache / bundle.encoder_digest[:16]
        captioner = load_captioner(bundle, self.runtime, kept, self.encoders.get(bundle.encoder_digest))
        self.encoders[bundle.encoder_digest] = captioner.encode
        size = captioner.preprocessing.size
        blank = np.zeros((size, size, 3), np.uint8)
        captioner.caption([blank], DecodeOptions())  # the first run compiles and allocates
        log.info("model_loaded", model=bundle.name, runtime=self.runtime.name, device=self.runtime.device,
                 precision=self.runtime.precision, seconds=round(time.monotonic() - started, 1))  # fmt: skip
        return captioner
