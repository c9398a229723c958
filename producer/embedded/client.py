"""The client of embedded mode: starts the supervisor of a data folder and keeps it running while work is to be done.

Every process that needs the embedded broker and worker holds a connection to their supervisor
(`producer.embedded.supervisor`); the first one starts it, with its connection as standard input. The kernel closes a
connection when its process ends, however it ends, so the supervisor always notices.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from captioning.environment import PREFIX, available_cores, child_environment
from captioning.errors import CaptioningError
from captioning.locks import require_locks
from captioning.settings import Settings
from captioning.start import child_command
from producer.embedded import FAILED, LOG, NEW_FOLDER, SOCKET, last_error

_START_SECONDS = 60.0  # that the supervisor may take to start the broker
_MAX_LOG_BYTES = 10_000_000
_POLL_SECONDS = 0.05
_MAX_ADDRESS_BYTES = 100  # of the path of a socket; the limit is 107 on Linux and 103 on macOS


class EmbeddedClient:
    """A connection to the supervisor of a data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._received = b""
        self.broker_url = ""

    def start(self) -> None:
        """Start the supervisor if none is running. Does not wait for it; `attach` does.

        Raises CaptioningError when the last one could not start.
        """
        if self._connection is None and not self._connect():
            self._start_supervisor()

    def attach(self) -> None:
        """Connect and wait for the broker. Raises CaptioningError when it cannot be started."""
        deadline = time.monotonic() + _START_SECONDS
        while not self.broker_url:
            self.start()
            self.check()
            if time.monotonic() > deadline:
                raise CaptioningError(f"the embedded broker does not start; see {self.log}.")
            self._wait()

    def _wait(self) -> None:
        """Wait a moment for a message."""
        if self._connection is None:
            time.sleep(_POLL_SECONDS)
        elif not self.broker_url:
            select.select([self._connection], [], [], _POLL_SECONDS)

    def check(self) -> None:
        """Read the supervisor's messages. Raises CaptioningError when it reports an error.

        If the supervisor was killed, the client is detached. A new supervisor releases the chunks and starts a worker.
        The sweeper of that worker sends the messages again.
        """
        while self._connection is not None:
            try:
                data = self._connection.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            *lines, self._received = (self._received + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "error" in message:
                    raise CaptioningError(message["error"])
                self.broker_url = message["broker_url"]

    @property
    def attached(self) -> bool:
        return self._connection is not None

    @property
    def log(self) -> Path:
        """The log of the supervisor, the broker and the worker."""
        return self._settings.data_dir / LOG

    def close(self) -> None:
        """Disconnect. The supervisor stops the broker and the worker when the last client has disconnected."""
        if self._connection is not None:
            self._connection.close()
        self._connection, self._received, self.broker_url = None, b"", ""

    def _connect(self) -> bool:
        connection = socket.socket(socket.AF_UNIX)
        address = os.fsencode(self._settings.data_dir / SOCKET)
        try:
            if len(address) <= _MAX_ADDRESS_BYTES:
                connection.connect(address)
            else:  # the name alone fits; not always, because one may be unable to return to the working folder
                with contextlib.chdir(self._settings.data_dir):
                    connection.connect(SOCKET)
        except OSError:
            connection.close()
            return False
        connection.setblocking(False)
        self._connection = connection
        return True

    def _start_supervisor(self) -> None:
        if self._supervisor is not None and self._supervisor.poll() is None:
            return
        if self._supervisor is not None and self._supervisor.returncode == FAILED:
            error = last_error(self.log, "supervisor")
            raise CaptioningError(error or f"the embedded broker does not start; the reason is in {self.log}.")
        folder = self._settings.data_dir
        folder.mkdir(parents=True, exist_ok=True)
        require_locks(folder)
        is_new = not self._settings.database_url and not self._settings.sqlite_file.exists()
        connection, its_end = socket.socketpair()
        with _open_log(self.log) as log, its_end:
            self._supervisor = subprocess.Popen(
                [
                    *child_command("producer.embedded.supervisor"),
                    ",".join(self._settings.embedded_worker_names),
                    NEW_FOLDER if is_new else "",
                ],
                env=child_environment(self._settings.as_environment() | _decode_share(self._settings)),
                cwd=folder,
                stdin=its_end.fileno(),
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal must not reach it
            )
        connection.setblocking(False)
        self._connection = connection


def _decode_share(settings: Settings) -> dict[str, str]:
    """Return the setting by which several workers share the cores of this machine for decoding."""
    workers = len(settings.embedded_worker_names)
    if workers == 1 or settings.decode_processes:
        return {}
    return {f"{PREFIX}DECODE_PROCESSES": str(max(1, (available_cores() - 1) // workers))}


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[int]:
    """Open a log for appending; one that is too large is emptied first."""
    truncate = os.O_TRUNC if path.exists() and path.stat().st_size > _MAX_LOG_BYTES else 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | truncate, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
