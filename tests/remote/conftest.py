"""Fixtures: a server that speaks S3, and an empty bucket for each test."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3 import Bucket, new_bucket, s3_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path) -> Bucket:
    return new_bucket(s3_endpoint, f"photos-{next(_numbers)}", tmp_path)
