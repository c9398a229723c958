"""A worker fetches several objects at a time, in the order of the chunk, and gives each its content or its reason."""

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from pathlib import Path

import pytest

from captioning.errors import ImageError
from captioning.settings import Settings, read_settings
from captioning.store.claims import ClaimedItem
from captioning.values import Reason
from tests.support.web import WebServer, web_server
from worker.file_reader import FileReader
from worker.reader import is_visible
from worker.remote_reader import WAITING_BYTES

CONNECTIONS = 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with web_server(tmp_path) as running:
        yield running


def settings(server: WebServer) -> Settings:
    networks = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    return read_settings(
        remote_ca=server.ca, remote_networks=networks, remote_connections=CONNECTIONS, max_bytes=50_000_000
    )


def items(*paths: str, size: int = 0) -> list[ClaimedItem]:
    return [ClaimedItem(i, i, os.fsencode(path), size, 0, 0, was_missed=False) for i, path in enumerate(paths)]


class Gate:
    """Answers only when a test lets it, and counts the requests that wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self.open = threading.Event()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.waiting += 1
        self.open.wait(20)
        request.send_response(200)
        request.send_header("Content-Length", "1")
        request.end_headers()
        request.wfile.write(b"x")


def test_each_file_gets_its_content_or_its_reason_with_one_request(server: WebServer) -> None:
    server.answers |= {f"/{i}.jpg": (200, {}, b"%d" % i) for i in range(10)}
    server.answers["/3.jpg"] = (403, {}, b"")
    results: dict[bytes, bytes | Reason] = {}
    wanted = items(*(f"{i}.jpg" for i in range(10)))
    with FileReader(settings(server)).reading(server.url.encode(), wanted, lambda: None) as reads:
        for item, read in reads:
            try:
                results[item.path] = read().data
            except ImageError as error:
                results[item.path] = error.reason
    assert results == {b"%d.jpg" % i: b"%d" % i if i != 3 else Reason.FORBIDDEN for i in range(10)}
    assert server.requests.total() == 10


def test_a_file_that_takes_long_does_not_delay_the_others(server: WebServer) -> None:
    gate = Gate()
    server.answers |= {f"/{i}.jpg": (200, {}, b"%d" % i) for i in range(20)} | {"/0.jpg": gate.answer}
    order = []
    with FileReader(settings(server)).reading(
        server.url.encode(), items(*(f"{i}.jpg" for i in range(20))), lambda: None
    ) as reads:
        for item, _ in reads:
            order.append(item.path)
            if len(order) == 19:
                gate.open.set()
    assert order[-1] == b"0.jpg"


@pytest.mark.parametrize(("size", "at_once"), [(0, CONNECTIONS), (WAITING_BYTES // 2, 2), (WAITING_BYTES * 2, 1)])
def test_as_many_files_are_fetched_at_once_as_settings_and_memory_allow(
    server: WebServer, size: int, at_once: int
) -> None:
    gate = Gate()
    server.answers |= {f"/{i}.jpg": gate.answer for i in range(10)}
    wanted = items(*(f"{i}.jpg" for i in range(10)), size=size)
    with FileReader(settings(server)).reading(server.url.encode(), wanted, lambda: None) as reads:
        reader = threading.Thread(target=lambda: list(reads))
        reader.start()
        deadline = time.monotonic() + 10
        while gate.waiting < at_once and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gate.waiting == at_once
        gate.open.set()
        reader.join()
    assert server.requests.total() == 10


def test_progress_is_reported_while_a_large_file_arrives_and_only_then(server: WebServer) -> None:
    progress = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "2")
        request.end_headers()
        request.wfile.write(b"a")
        request.wfile.flush()
        progress.wait(20)
        request.wfile.write(b"b")

    server.answers["/a.jpg"] = answer
    wanted = items("a.jpg")
    with FileReader(settings(server)).reading(server.url.encode(), wanted, progress.set) as reads:
        assert [read().data for _, read in reads] == [b"ab"]
    assert progress.is_set()


def test_a_bucket_and_a_server_are_visible_wherever_their_packages_are_installed() -> None:
    assert is_visible(b"s3://photos")
    assert is_visible(b"gs://photos")
    assert is_visible(b"https://example.com")
