"""Which images of a chunk share a caption, because they are near-duplicates of an image that has one, or will have."""

from collections.abc import Sequence

import numpy as np

from captioning.features import THUMBNAIL_BYTES, probes, unpack_thumbnails
from captioning.near_duplicates import same_image
from captioning.store.claims import Claim
from captioning.store.database import Database
from captioning.store.features import captioned_thumbnails


class CaptionSharing:
    """Finds the near-duplicates of one chunk, in the database and in the chunk itself."""

    def __init__(self, db: Database, claim: Claim) -> None:
        self._db = db
        self._claim = claim
        self._own: list[tuple[str, bytes]] = []  # SHA-256 and thumbnail of images of this chunk that the model captions

    def sources(self, images: Sequence[tuple[str, bytes]]) -> dict[str, str]:
        """Return which images share a caption, and of which content it is: SHA-256 by SHA-256.

        Each image is given as SHA-256 and thumbnail. The model must caption the others. Raises StoreUnavailable.
        """
        if not images:
            return {}
        wanted = _unpacked([thumbnail for _, thumbnail in images])
        asked = set(probes(wanted).ravel().tolist())
        model_id, digest = self._claim.model_id, self._claim.options.digest
        known = self._db.retry(lambda: captioned_thumbnails(self._db, model_id, digest, asked)) + self._own
        sha256s, thumbnails = [sha256 for sha256, _ in known], _unpacked([thumbnail for _, thumbnail in known])
        sources: dict[str, str] = {}
        for (sha256, packed), thumbnail in zip(images, wanted, strict=True):
            found = same_image(thumbnail, thumbnails)
            if found is None:
                self._own.append((sha256, packed))
                sha256s.append(sha256)
                thumbnails = np.concatenate([thumbnails, thumbnail[None]])
            else:
                sources[sha256] = sha256s[found]
        return sources


def _unpacked(thumbnails: Sequence[bytes]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return unpack_thumbnails(np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL_BYTES))
