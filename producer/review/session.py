"""Who may use the review: a secret in the link that `producer review` prints.

The link has it in the fragment, which browsers send to no server. The page exchanges it for a cookie, with which the
browser loads images, and keeps it to send it in a header. Browsers send cookies to every port of a host, so other
servers on this machine get the cookie: it is not the secret, and not enough to read or write captions.
"""

import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from captioning.atomic import replacing

FILE = "review.json"  # in the data folder
DEFAULT_PORT = 8377
_MAX_AGE = 12 * 3600  # seconds for which a restarted server goes on with the link of the one before


@dataclass(frozen=True)
class Session:
    """The secret and the port of a review."""

    token: str
    port: int

    @classmethod
    def open(cls, data_dir: Path, port: int | None) -> "Session":
        """Return the session of a server that was stopped not long ago, so that its page goes on, or a new one."""
        kept = _read(data_dir / FILE)
        if kept is not None and port in (None, kept.port):
            return kept
        return cls.new(DEFAULT_PORT if port is None else port)

    @classmethod
    def new(cls, port: int) -> "Session":
        return cls(secrets.token_urlsafe(32), port)

    def save(self, data_dir: Path) -> None:
        """Keep the session for a server that is started later. Only the user can read the file."""
        data_dir.mkdir(parents=True, exist_ok=True)
        with replacing(data_dir / FILE, mode=0o600) as unfinished:
            unfinished.write_text(json.dumps({"token": self.token, "port": self.port}))

    @property
    def origin(self) -> str:
        """What browsers call this server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def link(self) -> str:
        """The address of the page, with the secret."""
        return f"{self.origin}/#{self.token}"

    @property
    def cookie_name(self) -> str:
        """The name of the cookie: another server on this machine has another port."""
        return f"captionmill-{self.port}"

    @property
    def cookie(self) -> str:
        """The value of the cookie."""
        return hmac.new(self.token.encode(), b"images", hashlib.sha256).hexdigest()

    def is_token(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self.token.encode())

    def is_cookie(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), self.cookie.encode())


def _read(path: Path) -> Session | None:
    """Return the session in a file that is this user's alone and not old; None otherwise."""
    try:
        found = path.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or time.time() - found.st_mtime > _MAX_AGE:
            return None
        kept = json.loads(path.read_text())
        return Session(str(kept["token"]), int(kept["port"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None
