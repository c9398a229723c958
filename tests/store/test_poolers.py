"""The store needs no session of its own: it works through a pooler that gives each transaction another connection."""

import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
import sqlalchemy as sa

import migrations
from captioning.errors import StoreRefused, StoreUnavailable
from captioning.store import captions, jobs, search
from captioning.store.database import Database
from tests.store.helpers import StoreDriver
from tests.support.polling import free_port, wait_until
from tests.support.postgres import Postgres

POOLER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
SESSION_STATE = {
    "prepared statements": "SELECT count(*) FROM pg_prepared_statements",
    "cursors": "SELECT count(*) FROM pg_cursors WHERE is_holdable",
    "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
    "listeners": "SELECT count(*) FROM pg_listening_channels()",
    "temporary tables": "SELECT count(*) FROM pg_class WHERE relpersistence = 't'",
    "settings": "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name !~ '^client_encoding'",
}


def use_everything(first: Database, second: Database) -> None:
    """Use the store as producers and workers do, from two clients in turns."""
    migrations.upgrade(first)
    drivers = StoreDriver(first), StoreDriver(second)
    for n in range(8):  # a driver prepares a statement after five uses
        job = drivers[n % 2].submit(12, key=f"job {n}")
        while (claim := drivers[0].try_claim("w1")) is not None:
            drivers[1].process_chunk(claim)
        assert drivers[n % 2].progress(job).captioned == 12
        assert search.search(second, "dog", 5)[0] == 12 * (n + 1)
    assert len(list(captions.export_rows(first))) == 96
    assert jobs.failures(second, None) == []


def test_nothing_remains_in_the_session_after_a_transaction(postgres_server: Postgres) -> None:
    db = Database(postgres_server.fresh())
    use_everything(db, db)
    with db.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        assert {name: raw.execute(query).fetchone() for name, query in SESSION_STATE.items()} == dict.fromkeys(
            SESSION_STATE, (0,)
        )
    db.close()


def test_a_transaction_gives_up_waiting_and_is_ended_when_its_client_is_gone(postgres_server: Postgres) -> None:
    db = Database(postgres_server.fresh())
    for transaction in (db.reading, db.writing):
        with transaction() as connection:
            limits = [
                connection.exec_driver_sql(f"SHOW {name}").scalar_one()
                for name in ("lock_timeout", "idle_in_transaction_session_timeout")
            ]
            assert limits == ["30s", "30s"]
    db.close()


@contextmanager
def pgbouncer(server: Postgres, folder: Path, extra: str) -> Iterator[int]:
    """Run PgBouncer in transaction mode before a server while the context lasts; yield its port."""
    port = free_port()
    host = server.url.query["host"]
    (folder / "users").write_text(f'"{server.url.username}" "{server.url.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={host} port={server.url.port or 5432}\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nauth_type=trust\nauth_file={folder}/users\n"
        f"pool_mode=transaction\ndefault_pool_size=3\nlogfile={folder}/log\nunix_socket_dir=\n{extra}\n"
    )
    owner = Path(str(host)).stat().st_uid  # who may enter the folder of the server's socket; never root
    shutil.chown(folder, owner)
    process = subprocess.Popen([str(POOLER), "-q", str(folder / "pgbouncer.ini")], user=owner)
    try:
        wait_until(lambda: _answers(port), 10, "PgBouncer")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(POOLER is None, reason="PgBouncer is not installed")
@pytest.mark.skipif("CAPTIONING_TEST_DATABASE_URL" in os.environ, reason="needs a server of our own, on a socket")
@pytest.mark.parametrize("extra", ["", "ignore_startup_parameters=options"])
def test_pgbouncer_in_transaction_mode_works(postgres_server: Postgres, short_folder: Path, extra: str) -> None:
    url = sa.make_url(postgres_server.fresh())
    folder = short_folder / f"pgbouncer-{url.database}"
    folder.mkdir()
    short_folder.chmod(0o755)
    with pgbouncer(postgres_server, folder, extra) as port:
        pooled = url.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        clients = Database(pooled), Database(pooled)
        use_everything(*clients)
        for client in clients:
            client.close()


# -- what a client sends when it connects, and what it makes of a refusal --


class RefusingServer:
    """A server that refuses every connection with the same message, and keeps the options of the last one."""

    def __init__(self, message: str, code: str = "08P01") -> None:
        self.options: dict[str, str] = {}
        fields = b"".join(k + v.encode() + b"\0" for k, v in ((b"S", "FATAL"), (b"C", code), (b"M", message))) + b"\0"
        self._answer = b"E" + struct.pack("!I", len(fields) + 4) + fields
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql+psycopg://cap:secret@127.0.0.1:{self._listener.getsockname()[1]}/captions"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client, client.makefile("rb") as stream:
                packet = self._packet(stream)
                while struct.unpack("!I", packet[:4])[0] != 0x30000:  # it asks for encryption first
                    client.sendall(b"N")
                    packet = self._packet(stream)
                words = packet[4:].rstrip(b"\0").decode().split("\0")
                self.options = dict(zip(words[::2], words[1::2], strict=True))
                client.sendall(self._answer)

    @staticmethod
    def _packet(stream: IO[bytes]) -> bytes:
        return stream.read(struct.unpack("!I", stream.read(4))[0] - 4)


def refusal(url: str) -> StoreUnavailable:
    db = Database(url, retry_seconds=0)
    with pytest.raises(StoreUnavailable) as caught, db.reading():
        pass
    db.close()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    return caught.value


def test_a_client_asks_for_nothing_that_a_pooler_refuses() -> None:
    server = RefusingServer("go away")
    refusal(server.url)
    assert set(server.options) <= {"user", "database", "application_name", "client_encoding"}


REFUSALS = [  # what poolers and managed databases say, whether waiting helps, what a person hears
    ("unsupported startup parameter: options", False, "pooler that refuses an option .* remove `options`"),
    ("unsupported startup parameter in options: lock_timeout", False, "remove `options`"),
    ('no such database: "captions"', False, "does not exist on this server.* correct the name"),
    ('database "captions" does not exist', False, "does not exist on this server.* correct the name"),
    ('password authentication failed for user "cap"', False, "refuses the login.* check the user"),
    ("SASL authentication failed", False, "refuses the login"),
    ('no such user: "cap"', False, "refuses the login"),
    ('role "cap" does not exist', False, "refuses the login"),
    ("SSL required", False, r"only encrypted connections.* add \?sslmode=require"),
    ('no pg_hba.conf entry for host "::1", user "cap", database "x", no encryption', False, r"add \?sslmode=require"),
    ("sorry, too many clients already", True, "has no connection left.* PgBouncer"),
    ('too many connections for role "cap"', True, "has no connection left"),
    ("remaining connection slots are reserved for roles with the SUPERUSER attribute", True, "has no connection left"),
    ("no more connections allowed (max_client_conn)", True, "has no connection left"),
    ("query_wait_timeout", True, "has no connection left"),
    ("the database system is starting up", True, "does not answer: .*starting up"),
    ("server login has been failing, cached error: connect failed", True, "does not answer"),
    ('could not write init file: No space left on device, "password"', True, "its disk is full"),
]


@pytest.mark.parametrize(("message", "passes", "line"), REFUSALS)
def test_a_refused_connection_says_why_and_what_to_do(message: str, passes: bool, line: str) -> None:
    error = refusal(RefusingServer(message).url)
    assert isinstance(error, StoreRefused) is not passes
    assert re.search(line, str(error), re.IGNORECASE), str(error)
