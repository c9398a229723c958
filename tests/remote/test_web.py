"""Files of web servers are read over https, from addresses that are allowed, whatever the servers answer."""

import gzip
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from captioning.errors import FileUnreachable, ImageError
from captioning.remote import RemoteStore
from captioning.remote.store import ATTEMPTS
from captioning.settings import read_settings
from captioning.values import Reason
from tests.support.web import WebServer, web_server

LOCAL = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with web_server(tmp_path) as running:
        yield running


def remote(server: WebServer, **settings: Any) -> RemoteStore:
    return RemoteStore(read_settings(**({"remote_ca": server.ca, "remote_networks": LOCAL} | settings)))


def read(server: WebServer, path: str, max_bytes: int = 1000, **settings: Any) -> bytes:
    return remote(server, **settings).read(f"{server.url}{path}".encode(), max_bytes)


def error(server: WebServer, path: str, max_bytes: int = 1000, **settings: Any) -> ImageError:
    with pytest.raises(ImageError) as raised:
        read(server, path, max_bytes, **settings)
    assert "\n" not in str(raised.value)
    return raised.value


def redirect(to: str) -> tuple[int, dict[str, str], bytes]:
    return 302, {"Location": to}, b""


def test_a_file_is_read_with_one_request_whatever_its_type_and_its_parameters(server: WebServer) -> None:
    server.answers["/a b.jpg"] = server.answers["/a%20b.jpg"] = (200, {"Content-Type": "text/html"}, b"content")
    server.answers["/%C3%A9.jpg"] = (200, {}, b"accent")
    assert read(server, "/a%20b.jpg?width=640") == b"content"
    assert read(server, "/é.jpg") == b"accent"
    assert server.requests.total() == 2


def test_a_host_with_a_private_address_is_refused_before_a_connection(server: WebServer) -> None:
    server.answers["/a.jpg"] = (200, {}, b"content")
    refused = error(server, "/a.jpg", remote_networks=())
    assert refused.reason is Reason.FORBIDDEN
    assert "is not public; CAPTIONING_REMOTE_NETWORKS allows networks" in str(refused)
    assert not server.requests


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("https://169.254.169.254/latest/meta-data/a.jpg", "its host leads to 169.254.169.254, which is not public"),
        ("http://169.254.169.254/latest/meta-data/a.jpg", "it leads to http://, which is not encrypted"),
        ("https://[::ffff:169.254.169.254]/a.jpg", "which is not public"),
        ("https://10.0.0.1/a.jpg", "its host leads to 10.0.0.1, which is not public"),
        ("//192.168.1.1/a.jpg", "its host leads to 192.168.1.1, which is not public"),
        ("http://localhost/a.jpg", "not encrypted"),
        ("file:///etc/passwd", "leads nowhere"),
        ("ftp://example.com/a.jpg", "leads nowhere"),
        ("https://", "leads nowhere"),
    ],
)
def test_a_redirect_to_what_must_not_be_reached_is_refused_with_one_line(
    server: WebServer, target: str, message: str
) -> None:
    server.answers["/a.jpg"] = redirect(target)
    server.answers["/first.jpg"] = redirect("/a.jpg")
    refused = error(server, "/first.jpg")
    assert message in str(refused)
    assert refused.reason in (Reason.FORBIDDEN, Reason.UNREADABLE)
    assert not isinstance(refused, FileUnreachable)
    assert server.requests == {"/first.jpg": 1, "/a.jpg": 1}


def test_a_redirect_within_what_is_allowed_is_followed_and_an_endless_one_is_not(server: WebServer) -> None:
    server.answers["/b.jpg"] = (200, {}, b"content")
    server.answers["/a.jpg"] = redirect(f"https://127.0.0.1:{server.port}/b.jpg?signature=secret")
    server.answers["/loop.jpg"] = redirect("/loop.jpg")
    assert read(server, "/a.jpg") == b"content"
    assert "leads nowhere" in str(error(server, "/loop.jpg"))
    server.answers["/b.jpg"] = (403, {}, b"")
    assert "secret" not in str(error(server, "/a.jpg"))


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, Reason.FORBIDDEN), (403, Reason.FORBIDDEN), (404, Reason.MISSING), (410, Reason.MISSING),
     (400, Reason.UNREADABLE), (451, Reason.UNREADABLE)],
)  # fmt: skip
def test_a_refusal_of_the_server_is_the_reason_at_once(server: WebServer, status: int, reason: Reason) -> None:
    server.answers["/a.jpg"] = (status, {}, b"")
    refused = error(server, "/a.jpg")
    assert refused.reason is reason
    assert not isinstance(refused, FileUnreachable)
    assert server.requests["/a.jpg"] == 1


@pytest.mark.parametrize("failure", [(503, {}, b""), (429, {}, b""), (200, {"Content-Length": "100"}, b"cut short")])
def test_a_failure_that_passes_is_tried_again(server: WebServer, failure: tuple[int, dict[str, str], bytes]) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        server.answers["/a.jpg"] = (200, {}, b"content")
        status, headers, body = failure
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    server.answers["/a.jpg"] = answer
    assert read(server, "/a.jpg") == b"content"
    assert server.requests["/a.jpg"] == 2


def test_a_server_that_fails_all_the_time_or_does_not_answer_may_come_back(server: WebServer) -> None:
    server.answers["/a.jpg"] = (500, {}, b"")
    server.answers["/silent.jpg"] = lambda request: time.sleep(0.5)
    assert isinstance(error(server, "/a.jpg"), FileUnreachable)
    assert server.requests["/a.jpg"] == ATTEMPTS
    silent = error(server, "/silent.jpg", remote_timeout_seconds=0.1)
    assert isinstance(silent, FileUnreachable)
    assert server.requests["/silent.jpg"] == 1


def test_an_endless_answer_and_one_that_unpacks_to_more_are_cut_at_the_limit(server: WebServer) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(bytes(100_000))

    packed = gzip.compress(bytes(50_000_000))
    server.answers["/endless.jpg"] = endless
    server.answers["/large.jpg"] = (200, {}, bytes(20_000_000))
    server.answers["/bomb.jpg"] = (200, {"Content-Encoding": "gzip"}, packed)
    assert error(server, "/endless.jpg", max_bytes=1_000_000).reason is Reason.TOO_LARGE
    assert error(server, "/endless.jpg", max_bytes=40_000_000).reason is Reason.TOO_LARGE
    assert read(server, "/bomb.jpg", max_bytes=1_000_000) == packed
    assert len(read(server, "/large.jpg", max_bytes=20_000_000)) == 20_000_000
    assert error(server, "/large.jpg", max_bytes=19_999_999).reason is Reason.TOO_LARGE


def test_a_certificate_that_nobody_trusts_is_no_reason_to_read_without_one(server: WebServer) -> None:
    server.answers["/a.jpg"] = (200, {}, b"content")
    assert "CERTIFICATE_VERIFY_FAILED" in str(error(server, "/a.jpg", remote_ca=None))
    assert not server.requests
