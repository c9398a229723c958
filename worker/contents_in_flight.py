"""Contents that chunks of this process have decoded and not committed: copies in other chunks wait for the caption."""

import threading
from collections.abc import Callable, Collection

from captioning.store.claims import Claim

_Key = tuple[str, str, str]  # digests of model, options and content
_LOOK_SECONDS = 0.1


class ContentsInFlight:
    """Says which chunk has which content. A chunk that waits has nothing that was not handed on, so none waits long."""

    def __init__(self) -> None:
        self._owners: dict[_Key, int] = {}
        self._changed = threading.Condition()

    def take(self, claim: Claim, sha256s: Collection[str], is_over: Callable[[], bool]) -> None:
        """Wait until no other chunk has these contents, or this one is over; then have them."""
        keys = _keys(claim, sha256s)
        with self._changed:
            while not is_over() and any(self._owners.get(key, claim.chunk_id) != claim.chunk_id for key in keys):
                self._changed.wait(_LOOK_SECONDS)
            self._owners.update(dict.fromkeys(keys, claim.chunk_id))

    def give_back(self, claim: Claim, sha256s: Collection[str]) -> None:
        """Let others have contents that are committed, or were not decoded."""
        with self._changed:
            for key in _keys(claim, sha256s):
                if self._owners.get(key) == claim.chunk_id:
                    del self._owners[key]
            self._changed.notify_all()

    def give_all_back(self, claim: Claim) -> None:
        """Let others have all contents of a chunk."""
        with self._changed:
            self._owners = {key: owner for key, owner in self._owners.items() if owner != claim.chunk_id}
            self._changed.notify_all()


def _keys(claim: Claim, sha256s: Collection[str]) -> list[_Key]:
    options = claim.options.digest  # is computed
    return [(claim.model_digest, options, sha256) for sha256 in sha256s]
