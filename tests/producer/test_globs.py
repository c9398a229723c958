"""Patterns on the command line that no shell has expanded."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import UsageError
from producer.sources import read_sources
from producer.sources.globs import expand
from tests.producer.folders import create


def names(folder: Path, *patterns: str) -> list[str]:
    sources = read_sources([os.fsencode(folder / pattern) for pattern in patterns])
    return [os.path.relpath(os.fsdecode(path), folder) for path in (*sources.folders, *sources.files)]


def test_patterns_stand_for_the_files_that_they_match(tmp_path: Path) -> None:
    create(tmp_path, "a.jpg", "b.jpg", "c.png", ".hidden.jpg", "sub/d.jpg", "sub/deep/e.jpg")
    assert names(tmp_path, "*.jpg") == ["a.jpg", "b.jpg"]
    assert names(tmp_path, "[bc].*") == ["b.jpg", "c.png"]
    assert names(tmp_path, "*.{jpg,png}") == ["a.jpg", "b.jpg", "c.png"]
    assert names(tmp_path, "**/*.jpg") == ["a.jpg", "b.jpg", "sub/d.jpg", "sub/deep/e.jpg"]
    assert names(tmp_path, "s?b") == ["sub"]


def test_a_name_with_special_characters_is_meant_as_it_is(tmp_path: Path) -> None:
    create(tmp_path, "a[1].jpg", "a1.jpg", "{0..1}.jpg", "0.jpg")
    assert names(tmp_path, "a[1].jpg", "{0..1}.jpg") == ["a[1].jpg", "{0..1}.jpg"]


def test_numbers_in_braces_have_as_many_digits_as_the_first(tmp_path: Path) -> None:
    create(tmp_path, *(f"shard-{i:03d}.jpg" for i in range(8, 12)))
    assert names(tmp_path, "shard-{008..011}.jpg") == [f"shard-{i:03d}.jpg" for i in range(8, 12)]
    with pytest.raises(UsageError, match=r"shard-012\.jpg: no such file"):
        names(tmp_path, "shard-{008..012}.jpg")


def test_a_pattern_that_matches_nothing_is_a_typing_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file or folder; nothing matches this pattern"):
        names(tmp_path, "*.jpg")


def test_too_many_numbers_are_refused_before_they_take_memory() -> None:
    with pytest.raises(UsageError, match="more than 100000 paths"):
        expand(b"/none/{0..99999999}/{0..99999999}.jpg")


def test_in_a_url_only_braces_have_a_meaning() -> None:
    assert expand(b"https://a/{1..2}*.jpg?x", is_url=True) == [b"https://a/1*.jpg?x", b"https://a/2*.jpg?x"]


@given(first=st.integers(0, 2000), length=st.integers(0, 50), width=st.integers(1, 6))
def test_a_range_stands_for_each_number_once_in_order(first: int, length: int, width: int) -> None:
    text = f"{first:0{width}d}"
    found = expand(b"/none/{%s..%d}" % (text.encode(), first + length))
    assert [int(path.rpartition(b"/")[2]) for path in found] == list(range(first, first + length + 1))
    if text.startswith("0"):
        assert found[0] == f"/none/{text}".encode()
