"""Brokers must prove their identity, and no output ever contains a password, whatever goes wrong.

`test_compose` tests the restrictions of docker-compose.yml.
"""

import asyncio
import queue
import re
import ssl
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import trustme

from captioning.errors import UsageError
from captioning.queue.message import QUEUE
from captioning.settings import read_settings
from captioning.store.database import Database
from tests.journeys.cli_runner import CliResult, CliRunner
from tests.journeys.helpers import command_lines, contains, count_done, http_get, running
from tests.support.polling import free_port, wait_until
from tests.support.postgres import Postgres
from tests.support.valkey import valkey

MARK = "Kirschkern"  # a part of every password


@contextmanager
def tls_proxy(path: str, context: ssl.SSLContext) -> Iterator[int]:
    """Accept TLS connections and forward them to a socket; yield the port."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_unix_connection(path)
        try:
            ends = ((reader, broker_writer), (broker_reader, writer))
            copies = [asyncio.create_task(copy(source, sink)) for source, sink in ends]
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            broker_writer.close()
            writer.close()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()

    async def serve() -> None:
        server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
        stop = asyncio.Event()
        started.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()

    started: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    port, loop, stop = started.get(timeout=10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def socket_of(url: str) -> str:
    """Return the path in the URL of a broker that listens on a socket."""
    return urlsplit(url).path


def flower_arguments(port: int) -> tuple[str, ...]:
    return ("-A", "captioning.queue", "flower", f"--port={port}", "--address=127.0.0.1")


def flower_shows_the_queue(port: int) -> bool:
    with suppress(OSError):
        return f'"{QUEUE}"' in http_get(port, "/api/queues/length")
    return False


def outputs(results: list[CliResult]) -> str:
    return "".join(result.out + result.err for result in results)


def test_a_worker_waits_until_its_broker_proves_its_identity_and_accepts_the_password(
    photographs: Path, short_folder: Path, tmp_path: Path
) -> None:
    trusted, impostor = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(str(tmp_path / "ca"))
    client_certificate = trusted.issue_cert("worker.example")
    client_certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trusted.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED  # clients need a certificate too
    impostor.issue_cert("localhost").configure_cert(context)

    with valkey(short_folder / "tls", "another") as url, tls_proxy(socket_of(url), context) as port:

        def runner_for(host: str) -> CliRunner:
            environment = {"BROKER_URL": f"rediss://:{MARK}@{host}:{port}/0", "BROKER_CA": str(tmp_path / "ca")}
            environment |= {"BROKER_CERTIFICATE": str(tmp_path / "client"), "BROKER_KEY": str(tmp_path / "client")}
            prefixed = {f"CAPTIONING_{name}": value for name, value in environment.items()}
            return CliRunner(tmp_path / host, prefixed, with_compiled_model=True)

        runner, runner_with_wrong_host = runner_for("localhost"), runner_for("127.0.0.1")
        worker = ("-A", "worker", "worker", "--loglevel", "INFO")
        flower_port = free_port()
        flower = flower_arguments(flower_port)
        refused = [runner.producer("submit", str(photographs), "--json")]
        with (
            running(runner, tmp_path / "log", *worker, program="celery"),
            running(runner, tmp_path / "flower.log", *flower, program="celery", FLOWER_UNAUTHENTICATED_API="1"),
        ):
            log = tmp_path / "log"
            wait_until(lambda: contains(log, "certificate verify failed"), 60, "the worker to refuse the broker")
            trusted.issue_cert("localhost").configure_cert(context)
            refused += [runner_with_wrong_host.producer("submit", str(photographs), "--json")]
            wait_until(lambda: contains(log, "invalid username-password pair"), 60, "the broker to refuse the worker")
            with redis.Redis(unix_socket_path=socket_of(url), password="another") as server:
                server.config_set("requirepass", MARK)
            accepted = [runner.producer("submit", str(photographs))]
            db = Database(f"sqlite:///{runner.data}/captions.sqlite")
            wait_until(lambda: count_done(db) == 10, 90, "the captions")
            db.close()
            accepted += [runner.producer("doctor")]
            wait_until(lambda: flower_shows_the_queue(flower_port), 30, "Flower")
            commands = command_lines()
    assert [result.code for result in accepted] == [0, 0], accepted
    for result, reason in zip(refused, ("certificate verify failed", "IP address mismatch"), strict=True):
        assert result.code == 0
        assert result.json["new"] == 10
        assert result.err.startswith("producer: the broker does not answer")
        assert result.err.count("\n") == 1
        assert reason in result.err
    logs = "".join((tmp_path / name).read_text() for name in ("log", "flower.log"))
    assert "rediss://" in logs  # Celery's banner, which contains the URL
    assert MARK not in logs + commands + outputs(accepted + refused)


def test_no_output_contains_a_password_whatever_goes_wrong(
    photographs: Path, postgres_server: Postgres, short_folder: Path, tmp_path: Path
) -> None:
    images, flower_port = str(photographs), free_port()
    locked = postgres_server.locked(MARK)
    allowed = locked.replace("@/", f":{MARK}@/")
    with valkey(short_folder / "refusing", "another") as url:
        refused = {"BROKER_URL": url.replace("another", MARK)}
        down = {"BROKER_URL": f"redis://me:{MARK}@127.0.0.1:{free_port()}/0"}
        wrong = {"DATABASE_URL": locked.replace("@/", f":{MARK}x@/")}
        forbidden = {"DATABASE_URL": re.sub(r"/test_\w+", "/template1", allowed)}
        twice = {"DATABASE_URL": f"{allowed}&password={MARK}"}
        unquoted = {"DATABASE_URL": f"postgresql+psycopg://me:@{MARK}@db/x"}
        attempts: list[tuple[dict[str, str], tuple[str, ...], int, str]] = [
            (refused, ("producer", "submit", images), 0, "invalid username-password pair"),
            (refused, ("producer", "doctor"), 1, "invalid username-password pair"),
            (down, ("producer", "submit", images), 0, "the broker does not answer"),
            (down | wrong, ("producer", "submit", images), 1, "password authentication failed"),
            (down | wrong, ("producer", "status"), 1, "password authentication failed"),
            (down | wrong, ("worker",), 1, "password authentication failed"),
            (down | forbidden, ("producer", "submit", images), 1, "does not allow this user to do that"),
            (down | twice, ("producer", "status"), 2, "write the password before the host"),
            (down | unquoted, ("producer", "status"), 2, "@ as %40"),
            (down | {"DATABASE_URL": allowed}, ("worker", "doctor"), 0, "***"),
        ]

        def attempt(number: int) -> CliResult:
            environment, (program, *arguments), *_ = attempts[number]
            return runner_for(str(number), environment).run(program, *arguments)

        def runner_for(name: str, environment: dict[str, str]) -> CliRunner:
            environment = environment | {"DEBUG": "1", "DATABASE_RETRY_SECONDS": "0"}
            return CliRunner(tmp_path / name, {f"CAPTIONING_{key}": value for key, value in environment.items()})

        flower = flower_arguments(flower_port)
        log = tmp_path / "log"
        with (
            running(runner_for("flower", refused), log, *flower, program="celery", FLOWER_BASIC_AUTH=f"me:{MARK}"),
            ThreadPoolExecutor(2) as pool,
        ):
            results = list(pool.map(attempt, range(len(attempts))))
            wait_until(lambda: contains(log, "invalid username-password pair"), 60, "the broker to refuse Flower")
            commands = command_lines()
    for result, (_, command, code, message) in zip(results, attempts, strict=True):
        assert result.code == code, (command, result)
        assert message in result.out + result.err, (command, result)
    assert MARK not in log.read_text() + commands + outputs(results)


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
def test_an_ambiguous_broker_url_is_refused_without_showing_it(url: str) -> None:
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
def test_an_ambiguous_database_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError, match="CAPTIONING_DATABASE_URL") as refusal:
        read_settings(database_url=url)
    assert MARK not in str(refusal.value)


def test_a_password_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "good").write_text(MARK)
    for name, url, message in (
        ("none", "redis://queue", "No such file"),
        ("empty", "redis://queue", "is empty"),
        ("latin", "redis://queue", "UTF-8"),
        (".", "redis://queue", "Is a directory"),
        ("good", f"redis://:{MARK}@queue", "contains a password already"),
        ("good", "", "CAPTIONING_BROKER_URL is not set"),
    ):
        with pytest.raises(UsageError, match=message) as refusal:
            read_settings(broker_url=url, broker_password_file=tmp_path / name)
        assert "CAPTIONING_BROKER_PASSWORD_FILE=" in str(refusal.value)
        assert MARK not in str(refusal.value)


def test_certificates_are_checked_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(UsageError, match=r"CAPTIONING_BROKER_CA=.*text: not a valid PEM file"):
        read_settings(broker_url="rediss://queue", broker_ca=tmp_path / "text")
    with pytest.raises(UsageError, match=r"CAPTIONING_BROKER_KEY=.*No such file"):
        read_settings(broker_url="rediss://queue", broker_key=tmp_path / "none")
    with pytest.raises(UsageError, match="begins with rediss://"):
        read_settings(broker_url="redis://queue", broker_ca=tmp_path / "text")


def test_settings_show_no_password_and_child_processes_get_the_name_of_its_file(tmp_path: Path) -> None:
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
