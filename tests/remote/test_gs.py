"""Objects of a server that speaks Google's protocol are listed and read, with limits."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from gcp_storage_emulator.server import create_server

from captioning.errors import FileUnreachable, ImageError, UsageError
from captioning.remote import RemoteStore
from captioning.remote.store import ATTEMPTS
from captioning.settings import read_settings
from captioning.values import Reason
from tests.support.web import web_server

OBJECTS = {"a.jpg": b"one", "sub/b.jpg": b"two", "sub/deep/c d.jpg": b"three"}


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A server in this process, with a bucket."""
    server: Any = create_server("127.0.0.1", 0, in_memory=True, default_bucket="photos")
    server.start()
    url = f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
    for key, data in OBJECTS.items():
        requests.post(f"{url}/upload/storage/v1/b/photos/o", params={"uploadType": "media", "name": key}, data=data)
    yield url
    server.stop()


def test_objects_are_listed_looked_up_and_read(endpoint: str) -> None:
    remote = RemoteStore(read_settings(gs_endpoint=endpoint))
    assert [(file.url, file.is_folder, file.size) for file in remote.list_folder(b"gs://photos")] == [
        (b"gs://photos/a.jpg", False, 3),
        (b"gs://photos/sub", True, 0),
    ]
    deep = remote.list_folder(b"gs://photos/sub/deep")
    assert [file.url for file in deep] == [b"gs://photos/sub/deep/c d.jpg"]
    assert deep[0].mtime_ns > 0
    assert deep[0].version is not None
    assert remote.look_up([b"gs://photos/sub/deep/c d.jpg"]) == deep
    assert remote.read(b"gs://photos/sub/deep/c d.jpg", 1000) == b"three"
    assert remote.gone([b"gs://photos/a.jpg", b"gs://photos/x.jpg"]) == {b"gs://photos/x.jpg"}


def test_a_large_object_and_one_that_is_not_there_get_their_reasons(endpoint: str) -> None:
    remote = RemoteStore(read_settings(gs_endpoint=endpoint))
    for url, reason in ((b"gs://photos/none.jpg", Reason.MISSING), (b"gs://photos/a.jpg", Reason.TOO_LARGE)):
        with pytest.raises(ImageError) as raised:
            remote.read(url, 2)
        assert raised.value.reason is reason
        assert not isinstance(raised.value, FileUnreachable)


def test_without_a_key_nothing_looks_for_credentials_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(
        json.dumps({"type": "authorized_user", "client_id": "x", "client_secret": "x", "refresh_token": "x"})
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        download = RemoteStore(read_settings(gs_endpoint=endpoint)).start(b"gs://photos/a.jpg", 1000)
        connection, _ = server.accept()
        with connection:
            request = connection.recv(10_000)
        download.cancel()
    assert request.startswith(b"GET ")
    assert b"authorization" not in request.lower()


def test_a_file_that_is_no_key_of_a_service_account_is_refused_with_its_setting(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    for text in ("no JSON", "[]", '{"type": "authorized_user"}'):
        key.write_text(text)
        with pytest.raises(UsageError, match=r"CAPTIONING_GS_KEY_FILE=.*: not the key of a service account"):
            RemoteStore(read_settings(gs_key_file=key)).read(b"gs://photos/a.jpg", 1000)


@pytest.mark.parametrize(
    ("status", "reason", "requests"), [(403, Reason.FORBIDDEN, 1), (503, Reason.UNREADABLE, ATTEMPTS)]
)
def test_a_refusal_is_the_reason_at_once_and_a_failure_is_tried_again(
    tmp_path: Path, status: int, reason: Reason, requests: int
) -> None:
    with web_server(tmp_path) as server:
        server.answers["/download/storage/v1/b/photos/o/a.jpg"] = (status, {}, b"{}")
        remote = RemoteStore(read_settings(gs_endpoint=server.url, remote_ca=server.ca))
        with pytest.raises(ImageError) as raised:
            remote.read(b"gs://photos/a.jpg", 1000)
        assert raised.value.reason is reason
        assert server.requests.total() == requests
