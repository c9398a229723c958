"""Images in a bucket and lists of URLs are registered, missed and forgotten as files in folders are."""

import os
from pathlib import Path

import pytest

from captioning.store import captions
from captioning.store.database import Database
from tests.journeys.cli_runner import CliRunner
from tests.support.s3 import Bucket

OBJECTS = {
    "2024/a.jpg": b"a", "2024/deep/b.PNG": b"bb", "c.jpg": b"ccc", "notes.txt": b"x", ".hidden.jpg": b"x",
    "@eaDir/d.jpg": b"x", "2024//e.jpg": b"x", "shard.tar": b"x", "2024/": b"",
}  # fmt: skip


@pytest.fixture
def cloud(cli: CliRunner, bucket: Bucket, store: Database) -> CliRunner:
    """A producer with a bucket of objects; workers are elsewhere."""
    bucket.put(OBJECTS)
    cli.environment |= bucket.settings | {"CAPTIONING_BROKER_URL": "redis+socket:///nobody.sock"}
    return cli


def registered(store: Database, *, missing: bool = False) -> list[str]:
    return sorted(row.path for row in captions.export_rows(store, captions.Selection(missing=missing)))


def submit(cli: CliRunner, *arguments: str, code: int = 0) -> str:
    """Submit. Nobody answers at the broker, so everything is registered and nothing is captioned."""
    result = cli.producer("submit", *arguments)
    assert result.code == code, result
    return result.out + result.err


def test_a_bucket_is_walked_like_a_folder(cloud: CliRunner, bucket: Bucket) -> None:
    result = cloud.producer("submit", bucket.url, "--dry-run", "--list-skipped")
    assert result.code == 0, result
    assert "3 images would be submitted" in result.out
    for path, category in (
        ("notes.txt", ".txt file"), (".hidden.jpg", "hidden file"), ("@eaDir", "thumbnail folder"),
        ("2024/", "object with a name that is no path"), ("shard.tar", ".tar archive"),
    ):  # fmt: skip
        assert f"{bucket.url}/{path}\t{category}\n" in result.out


def test_patterns_and_folders_choose_objects(cloud: CliRunner, bucket: Bucket) -> None:
    for arguments, count in (
        ([f"{bucket.url}/2024/"], 2), ([bucket.url, "--exclude", "deep"], 2), ([bucket.url, "--include", "*.png"], 1),
        ([f"{bucket.url}/2024"], 2), ([f"{bucket.url}/c.jpg"], 1), ([f"{bucket.url}/{{c,c}}.jpg"], 1),
    ):  # fmt: skip
        result = cloud.producer("submit", *arguments, "--dry-run")
        assert f"{count} image" in result.out, (arguments, result)


def test_objects_are_files_below_their_bucket(cloud: CliRunner, bucket: Bucket, store: Database) -> None:
    submit(cloud, bucket.url)
    assert registered(store) == [f"{bucket.url}/2024/a.jpg", f"{bucket.url}/2024/deep/b.PNG", f"{bucket.url}/c.jpg"]
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT path FROM roots").scalars().all() == [bucket.url]
    shown = cloud.producer("show", f"{bucket.url}/2024/a.jpg")
    assert shown.code == 0
    assert "2024/a.jpg" in shown.out


def test_an_object_that_is_gone_is_marked_and_one_that_came_back_is_not(
    cloud: CliRunner, bucket: Bucket, store: Database
) -> None:
    submit(cloud, bucket.url)
    bucket.delete("2024/a.jpg", "c.jpg")
    assert "1 file that is gone from there is marked as missing" in submit(cloud, f"{bucket.url}/2024/")
    assert f"{bucket.url}/c.jpg" in registered(store)
    bucket.put({"2024/a.jpg": b"a"})
    assert "1 file that is gone" in submit(cloud, bucket.url)
    assert registered(store) == [f"{bucket.url}/2024/a.jpg", f"{bucket.url}/2024/deep/b.PNG"]


def test_a_bucket_that_cannot_be_listed_marks_nothing_and_ends_with_a_line(
    cloud: CliRunner, bucket: Bucket, store: Database
) -> None:
    submit(cloud, bucket.url)
    cloud.environment["CAPTIONING_S3_ENDPOINT"] = "http://127.0.0.1:9"
    cloud.environment["CAPTIONING_REMOTE_TIMEOUT_SECONDS"] = "0.2"
    result = cloud.producer("submit", bucket.url)
    assert result.code == 2
    assert f"{bucket.url}: the server cannot be read" in result.err
    assert len(registered(store)) == 3


def test_a_list_mixes_files_objects_and_urls_and_each_server_is_a_root(
    cloud: CliRunner, bucket: Bucket, store: Database, tmp_path: Path
) -> None:
    (tmp_path / "local.jpg").write_bytes(b"x")
    lines = [
        f"{tmp_path}/local.jpg", f"{bucket.url}/c.jpg", f"{bucket.url}/none.jpg", "https://example.com/a.jpg?w=1",
        "https://example.org/x/b.jpg", "https://example.com/a.jpg?sig=hunter2", "http://example.com/c.jpg",
        "https://user:hunter2@example.com/d.jpg", "https://example.com/e.zip",
    ]  # fmt: skip
    (tmp_path / "list.txt").write_text("\n".join(lines))
    output = submit(cloud, "--from-file", str(tmp_path / "list.txt"), code=3)
    assert "hunter2" not in output
    assert "its parameter sig may be a secret" in output
    assert registered(store) == [
        f"{tmp_path}/local.jpg", "https://example.com/a.jpg?w=1", "https://example.org/x/b.jpg", f"{bucket.url}/c.jpg",
    ]  # fmt: skip
    with store.reading() as connection:
        roots = set(connection.exec_driver_sql("SELECT path FROM roots").scalars())
    assert roots == {str(tmp_path), "https://example.com", "https://example.org", bucket.url}


def test_a_url_with_a_secret_on_the_command_line_is_refused_with_one_line(cloud: CliRunner) -> None:
    result = cloud.producer("submit", "https://example.com/a.jpg?X-Amz-Signature=hunter2")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "hunter2" not in result.err


def test_a_url_that_was_captioned_once_is_known_and_read_again_only_on_request(
    cloud: CliRunner, store: Database
) -> None:
    submit(cloud, "https://example.com/a.jpg")
    with store.reading() as connection:
        row = connection.exec_driver_sql("SELECT size, mtime_ns, ctime_ns, missing_since FROM files").one()
    assert tuple(row) == (0, 0, None, None)


def test_objects_are_forgotten_like_files(cloud: CliRunner, bucket: Bucket, store: Database) -> None:
    submit(cloud, bucket.url)
    result = cloud.producer("forget", f"{bucket.url}/2024", "--yes")
    assert "2 files" in result.out, result
    assert registered(store) == [f"{bucket.url}/c.jpg"]


def test_without_the_packages_a_line_says_what_to_install(cli: CliRunner, tmp_path: Path) -> None:
    cli.in_process = False
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text("import sys\nsys.modules['s3fs'] = None\n")
    cli.environment["PYTHONPATH"] = os.fsdecode(tmp_path)
    result = cli.producer("submit", "s3://photos", "--dry-run")
    assert result.code == 2
    assert "s3:// needs packages that are not installed. Run: pip install 'captionmill[remote]'" in result.err
