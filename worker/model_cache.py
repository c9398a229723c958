"""The models that a worker has loaded. Models with the same encoder share it in memory."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import structlog

from captioning.bundles import Bundle
from captioning.errors import BundleError
from captioning.model.captioner import Captioner, GridEncoder
from captioning.model.descriptions import preprocessing_of
from captioning.model.runtime import Runtime, load_captioner
from captioning.values import DecodeOptions, digest_of
from worker.stages import Stage, Stages

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ModelCache:
    """Bundles by digest, each loaded when it is first needed."""

    bundles: dict[str, Bundle]
    runtime: Runtime
    folder: Path | None  # of encoders that are converted or compiled; None: none are kept
    captioners: dict[str, Captioner] = field(default_factory=dict)
    encoders: dict[tuple[str, str], GridEncoder] = field(default_factory=dict)
    stages: Stages = field(default_factory=Stages)

    @classmethod
    def of(cls, bundles: dict[str, Bundle], runtime: Runtime, folder: Path | None) -> "ModelCache":
        """Return a cache of these bundles (by name), none loaded yet."""
        return cls({bundle.digest: bundle for bundle in bundles.values()}, runtime, folder)

    def captioner(self, digest: str) -> Captioner:
        """Return a loaded and warmed-up model. Raises BundleError."""
        if digest not in self.captioners:
            if digest not in self.bundles:
                raise BundleError(f"this worker has no bundle with digest {digest[:16]}.")
            self.captioners[digest] = self._load(self.bundles[digest])
        return self.captioners[digest]

    def image_size(self, digest: str) -> int:
        """Return the side of the images that a model reads, in pixels, loaded or not. Raises BundleError."""
        loaded = self.captioners.get(digest)
        return (loaded.preprocessing if loaded is not None else preprocessing_of(self.bundles[digest])).size

    def _load(self, bundle: Bundle) -> Captioner:
        started = time.monotonic()
        bundle.verify()
        of_encoder = bundle.encoder_key, digest_of(bundle.description.get("int8"))
        captioner = load_captioner(bundle, self.runtime, self.folder, self.encoders.get(of_encoder))
        self.encoders[of_encoder] = captioner.encode
        captioner = replace(captioner, encode=self.stages.timing(Stage.ENCODE, captioner.encode))
        if self.runtime.device != "cpu":  # where the first run compiles and allocates for seconds
            size = captioner.preprocessing.size
            captioner.caption([np.zeros((size, size, 3), np.uint8)], DecodeOptions())
        log.info(
            "model_loaded",
            model=bundle.name,
            runtime=self.runtime.name,
            device=self.runtime.device,
            precision=self.runtime.for_bundle(bundle).precisions,
            seconds=round(time.monotonic() - started, 1),
        )
        return captioner
