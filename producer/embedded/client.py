"""The embedded stack, seen by its users: a private broker and a worker that live while someone is attached.

Everybody who needs the stack holds a connection to its keeper (`producer.embedded.supervisor`); the first starts the
keeper. The system closes a connection when its process ends, by whatever death, so nothing is left behind.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from captioning.errors import CaptioningError
from captioning.settings import Settings

SOCKET, LOCK, LOG = "stack.sock", "stack.lock", "worker.log"
_START_SECONDS = 60.0


class EmbeddedClient:
    """A hold on the stack of a data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keeper: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._heard = b""
        self.broker_url = ""

    def begin(self) -> None:
        """Start the keeper if none runs, without waiting for it: there is time until `attach`."""
        if self._connection is None and not self._connect():
            self._start_keeper()

    def attach(self) -> None:
        """Hold on to a running stack. Raises CaptioningError when it can't be brought up."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.broker_url:
            if self._connection is None and not self._connect():
                self._start_keeper()
            self.check()
            if time.monotonic() > deadline:
                raise CaptioningError(f"the embedded broker doesn't start; see {self._settings.data_dir / LOG}.")
            time.sleep(0.05)

    def check(self) -> None:
        """Hear what the keeper has to say; hold on to a new one if it died. Raises CaptioningError."""
        while self._connection is not None:
            try:
                data = self._connection.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # the keeper was killed: leases and bells heal, a new one takes over
                self.close()
                return
            *lines, self._heard = (self._heard + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "error" in said:
                    raise CaptioningError(said["error"])
                self.broker_url = said["broker_url"]

    @property
    def attached(self) -> bool:
        return self._connection is not None

    @property
    def log(self) -> Path:
        return self._settings.data_dir / LOG

    def close(self) -> None:
        """Let go; the keeper stops the stack if nobody else holds it."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._heard, self.broker_url = None, b"", ""

    def _connect(self) -> bool:
        connection = socket.socket(socket.AF_UNIX)
        try:
            with contextlib.chdir(self._settings.data_dir):  # a socket's path may have 107 bytes; its name always fits
                connection.connect(SOCKET)
        except OSError:
            connection.close()
            return False
        connection.setblocking(False)
        self._connection = connection
        return True

    def _start_keeper(self) -> None:
        if self._keeper is not None and self._keeper.poll() is None:
            return
        folder = self._settings.data_dir
        folder.mkdir(parents=True, exist_ok=True)
        with open_log(folder) as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-P", "-m", "producer.embedded.supervisor"],
                env=os.environ | self._settings.as_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal isn't for it
            )


@contextlib.contextmanager
def open_log(folder: Path) -> Iterator[int]:
    """Open the log of the embedded stack to append to it; one that has grown large begins anew."""
    path = folder / LOG
    anew = os.O_TRUNC if path.exists() and path.stat().st_size > 10_000_000 else 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | anew, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
