"""A server that speaks S3 (moto, from a package), and a slow and failing way to it."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support.polling import free_port, wait_until

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Bucket:
    """A bucket of a running server."""

    endpoint: str
    name: str
    folder: Path  # for files with secrets

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    @property
    def settings(self) -> dict[str, str]:
        """Settings with which programs read it."""
        secret = self.folder / "s3-secret"
        secret.write_text("secret\n")
        return {
            "CAPTIONING_S3_ENDPOINT": self.endpoint,
            "CAPTIONING_S3_ACCESS_KEY": "key",
            "CAPTIONING_S3_SECRET_KEY_FILE": str(secret),
        }

    def put(self, objects: Mapping[str, bytes]) -> None:
        client = _client(self.endpoint)
        for key, data in objects.items():
            client.put_object(Bucket=self.name, Key=key, Body=data)

    def delete(self, *keys: str) -> None:
        client = _client(self.endpoint)
        for key in keys:
            client.delete_object(Bucket=self.name, Key=key)


def _client(endpoint: str) -> Any:
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )


def new_bucket(endpoint: str, name: str, folder: Path) -> Bucket:
    """Create a bucket."""
    _client(endpoint).create_bucket(Bucket=name)
    return Bucket(endpoint, name, folder)


@contextmanager
def _running(arguments: list[str], endpoint: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _answers(endpoint), 60, f"the server at {endpoint}")
        yield endpoint
    finally:
        process.kill()
        process.wait()


def _answers(endpoint: str) -> bool:
    try:
        requests.get(endpoint, timeout=2)
    except requests.ConnectionError:
        return False
    return True


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server while the context lasts; yield its URL."""
    port = free_port()
    with _running(["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], f"http://127.0.0.1:{port}") as endpoint:
        yield endpoint


@contextmanager
def failing_way_to(endpoint: str, *, seconds: float) -> Iterator[str]:
    """Run a server that passes requests on, slowly, and fails some of them; yield its URL. See `failing_bucket`."""
    port = free_port()
    arguments = ["-m", "tests.support.failing_bucket", endpoint, str(port), str(seconds)]
    with _running(arguments, f"http://127.0.0.1:{port}") as way:
        yield way
