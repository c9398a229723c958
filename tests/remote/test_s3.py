"""Objects of a real S3 server are listed and read, with limits; errors get their reasons."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from captioning.errors import FileUnreachable, ImageError, UsageError
from captioning.remote import RemoteStore
from captioning.settings import read_settings
from captioning.values import Reason
from tests.support.s3 import Bucket

OBJECTS = {"a.jpg": b"one", "sub/b.jpg": b"two", "sub/deep/c.jpg": b"three", "sub/": b""}
Open = Callable[..., RemoteStore]


@pytest.fixture
def remote(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> RemoteStore:
    for name, value in bucket.settings.items():
        monkeypatch.setenv(name, value)
    return RemoteStore(read_settings())


def url(bucket: Bucket, key: str) -> bytes:
    return f"{bucket.url}/{key}".encode()


def reason(remote: RemoteStore, wanted: bytes, max_bytes: int = 1000) -> Reason:
    with pytest.raises(ImageError) as raised:
        remote.read(wanted, max_bytes)
    assert not isinstance(raised.value, FileUnreachable)
    return raised.value.reason


def test_objects_are_listed_folder_by_folder_with_what_tells_a_change(remote: RemoteStore, bucket: Bucket) -> None:
    bucket.put(OBJECTS)
    top = remote.list_folder(bucket.url.encode())
    assert [(file.url, file.is_folder, file.size) for file in top] == [
        (url(bucket, "a.jpg"), False, 3), (url(bucket, "sub"), True, 0),
    ]  # fmt: skip
    assert [file.name for file in remote.list_folder(url(bucket, "sub"))] == [b"b.jpg", b"deep"]
    before = top[0]
    bucket.put({"a.jpg": b"two"})
    after = remote.list_folder(bucket.url.encode())[0]
    assert (before.size, before.version != after.version) == (after.size, True)
    assert remote.list_folder(url(bucket, "none")) == []


def test_keys_that_are_no_paths_are_problems_and_lead_into_no_loop(remote: RemoteStore, bucket: Bucket) -> None:
    bucket.put({"sub//x.jpg": b"x", "sub/b.jpg": b"x", "a?versionId=1.jpg": b"x"})
    problems = {file.url: file.problem for file in remote.list_folder(url(bucket, "sub"))}
    assert problems.pop(url(bucket, "sub/b.jpg")) == ""
    assert list(problems.values()) == ["object with a name that is no path"]
    assert remote.list_folder(bucket.url.encode())[0].problem == "object with a name that is no path"


def test_an_object_is_read_and_a_large_or_missing_one_gets_its_reason(remote: RemoteStore, bucket: Bucket) -> None:
    bucket.put(OBJECTS | {"large.jpg": bytes(20_000_000), "empty.jpg": b"", "é ü.jpg": b"named"})
    assert remote.read(url(bucket, "sub/b.jpg"), 1000) == b"two"
    assert remote.read(url(bucket, "é ü.jpg"), 1000) == b"named"
    assert remote.read(url(bucket, "empty.jpg"), 1000) == b""
    assert len(remote.read(url(bucket, "large.jpg"), 20_000_000)) == 20_000_000
    assert reason(remote, url(bucket, "large.jpg"), 19_999_999) is Reason.TOO_LARGE
    assert reason(remote, url(bucket, "a.jpg"), 2) is Reason.TOO_LARGE
    assert reason(remote, url(bucket, "none.jpg")) is Reason.MISSING
    assert reason(remote, b"s3://no-such-bucket/a.jpg") is Reason.MISSING


def test_objects_that_are_gone_are_found_by_listing_their_folders(remote: RemoteStore, bucket: Bucket) -> None:
    bucket.put(OBJECTS)
    wanted = [url(bucket, key) for key in ("a.jpg", "none.jpg", "sub/b.jpg", "gone/x.jpg")]
    assert remote.gone(wanted) == {wanted[1], wanted[3]}


def test_named_objects_are_looked_up(remote: RemoteStore, bucket: Bucket) -> None:
    bucket.put(OBJECTS)
    found, folder, missing = remote.look_up([url(bucket, key) for key in ("a.jpg", "sub", "none.jpg")])
    assert not isinstance(found, ImageError)
    assert found == remote.list_folder(bucket.url.encode())[0]
    assert not isinstance(folder, ImageError)
    assert folder.is_folder
    assert isinstance(missing, ImageError)


def test_a_server_that_is_gone_is_unreachable_not_the_fault_of_an_object(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and nobody listens
        settings = read_settings(s3_endpoint=f"http://127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(FileUnreachable):
            RemoteStore(settings).read(b"s3://photos/a.jpg", 1000)


def test_without_a_key_the_request_is_not_signed_whatever_the_user_has_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id=THEIRS\naws_secret_access_key=x\n")
    (tmp_path / ".aws" / "config").write_text("[default]\nendpoint_url=http://127.0.0.1:9\n")
    (tmp_path / ".config" / "fsspec").mkdir(parents=True)
    (tmp_path / ".config" / "fsspec" / "conf.json").write_text('{"s3": {"key": "THEIRS", "secret": "x"}}')
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = read_settings(s3_endpoint=f"http://127.0.0.1:{server.getsockname()[1]}", remote_timeout_seconds=0.2)
        download = RemoteStore(settings).start(b"s3://photos/a.jpg", 1000)
        connection, _ = server.accept()
        with connection:
            request = connection.recv(10_000)
        download.cancel()
    assert request.startswith(b"GET /photos/a.jpg")
    assert b"authorization" not in request.lower()
    assert b"THEIRS" not in request


def test_a_key_without_its_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belong together"):
        RemoteStore(read_settings(s3_access_key="key")).read(b"s3://photos/a.jpg", 1000)


def test_a_secret_file_that_cannot_be_read_is_named_with_its_setting(tmp_path: Path) -> None:
    settings = read_settings(s3_access_key="key", s3_secret_key_file=tmp_path / "none")
    with pytest.raises(UsageError, match=r"CAPTIONING_S3_SECRET_KEY_FILE=.*none: No such file"):
        RemoteStore(settings).read(b"s3://photos/a.jpg", 1000)
