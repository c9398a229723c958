"""Patterns mean what people mean by them."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import UsageError
from producer.sources import Filters
from tests.producer.folders import create, find, walk

FILES = ("a.JPG", "b.png", "sub/c.jpg", "sub/deep/d.png", "x/sub/e.jpg", "x/f.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    create(folder, *FILES)
    return folder


def left_out(folder: Path, pattern: str) -> set[str]:
    """Return what an exclusion leaves out, and check that the same inclusion takes just that."""
    kept = set(walk(folder, exclude=(pattern,))[0])
    assert set(walk(folder, include=(pattern,))[0]) == set(FILES) - kept
    return set(FILES) - kept


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.jpg", {"a.JPG", "sub/c.jpg", "x/sub/e.jpg", "x/f.jpg"}),
        (" *.jpg ", {"a.JPG", "sub/c.jpg", "x/sub/e.jpg", "x/f.jpg"}),
        ("*.JPG", {"a.JPG", "sub/c.jpg", "x/sub/e.jpg", "x/f.jpg"}),
        ("*.{jpg,tif}", {"a.JPG", "sub/c.jpg", "x/sub/e.jpg", "x/f.jpg"}),
        ("/*.jpg", {"a.JPG"}),
        ("sub", {"sub/c.jpg", "sub/deep/d.png", "x/sub/e.jpg"}),
        ("SUB", {"sub/c.jpg", "sub/deep/d.png", "x/sub/e.jpg"}),
        ("sub/", {"sub/c.jpg", "sub/deep/d.png", "x/sub/e.jpg"}),
        ("**/sub", {"sub/c.jpg", "sub/deep/d.png", "x/sub/e.jpg"}),
        ("**/sub/**", {"sub/c.jpg", "sub/deep/d.png", "x/sub/e.jpg"}),
        ("./sub", {"sub/c.jpg", "sub/deep/d.png"}),
        ("/sub", {"sub/c.jpg", "sub/deep/d.png"}),
        ("/sub/", {"sub/c.jpg", "sub/deep/d.png"}),
        ("sub/*", {"sub/c.jpg", "sub/deep/d.png"}),
        ("sub/**", {"sub/c.jpg", "sub/deep/d.png"}),
        ("sub//deep", {"sub/deep/d.png"}),
        ("sub/deep/d.png", {"sub/deep/d.png"}),
        ("sub/**/*.png", {"sub/deep/d.png"}),
        ("x/*.jpg", {"x/f.jpg"}),
        ("x/**/*.jpg", {"x/sub/e.jpg", "x/f.jpg"}),
        ("[ab].*", {"a.JPG", "b.png"}),
        ("[!a-c].*", {"sub/deep/d.png", "x/sub/e.jpg", "x/f.jpg"}),
        ("?.png", {"b.png", "sub/deep/d.png"}),
        ("*", set(FILES)),
        ("**", set(FILES)),
        ("b.png/", set()),
        ("su", set()),
        ("c*/", set()),
    ],
)
def test_a_pattern_matches_names_at_any_depth_and_a_folder_means_its_contents(
    folder: Path, pattern: str, matched: set[str]
) -> None:
    assert left_out(folder, pattern) == matched


@pytest.mark.parametrize("ending", ["", "/", "/**", "/*"])
def test_a_folder_may_be_given_by_its_absolute_path_or_from_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    (folder.parent / "link").symlink_to("images")
    monkeypatch.chdir(folder.parent)
    for path in (str(folder / "sub"), str(folder.parent / "link" / "sub"), "images/sub", "./images/sub", "link/sub"):
        assert left_out(folder, path + ending) == {"sub/c.jpg", "sub/deep/d.png"}
    monkeypatch.chdir(folder / "x")
    assert left_out(folder, "../sub" + ending) == {"sub/c.jpg", "sub/deep/d.png"}


def test_an_excluded_folder_is_not_read(folder: Path) -> None:
    assert walk(folder, exclude=("sub", "x/"))[1] == {"excluded folder": 2}
    assert walk(folder, exclude=("sub/*",))[1] == {"filtered": 1, "excluded folder": 1}


@pytest.mark.parametrize(
    "name", ["photo[1].jpg", "{a,b}.jpg", "#1.jpg", "!a.jpg", "a*b.jpg", "back\\slash.jpg", "end .jpg ", "a b.jpg"]
)
def test_a_name_with_special_characters_can_be_given_as_it_is(tmp_path: Path, name: str) -> None:
    create(tmp_path, "keep.jpg", name + (".jpg" if name.endswith(" ") else ""))
    assert walk(tmp_path, exclude=(name if not name.endswith(" ") else name + ".jpg",))[0] == ["keep.jpg"]


def test_both_unicode_forms_of_a_name_match_both(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, f"Café {form}/é.jpg") for form in ("NFC", "NFD")]
    create(tmp_path, *names)
    for form in ("NFC", "NFD"):
        for pattern in ("caf\u00e9*", "\u00c9.JPG", "/caf\u00e9*/\u00e9.jpg"):
            found, _ = walk(tmp_path, include=(unicodedata.normalize(form, pattern),))
            assert sorted(found) == sorted(names)


def test_names_that_are_not_text_match_by_their_bytes_and_as_they_are_printed(tmp_path: Path) -> None:
    create(tmp_path, os.fsdecode(b"caf\xe9.jpg"), "50%E9.jpg", "a.jpg")
    assert walk(tmp_path, exclude=(os.fsdecode(b"CAF\xe9*"),))[0] == ["50%E9.jpg", "a.jpg"]
    assert walk(tmp_path, exclude=("caf%e9.jpg",))[0] == ["50%E9.jpg", "a.jpg"]
    assert walk(tmp_path, exclude=("50%E9.jpg",))[0] == ["a.jpg", os.fsdecode(b"caf\xe9.jpg")]


@pytest.mark.parametrize(
    ("filters", "sentences"),
    [
        ({"include": ("*.jpg", "*.jpeg")}, ("--include '*.jpeg' matched no image",)),
        ({"exclude": ("sub", "drafts/")}, ("--exclude 'drafts/' matched no image and no folder",)),
        (
            {"exclude": ("x\\f.jpg",)},
            ("--exclude 'x\\\\f.jpg' matched no image and no folder; write / between folders",),
        ),
        ({"include": ("*.jpg", "a.*"), "exclude": ("sub",)}, ()),
        ({"include": ("*.jpg", "z" * 9999)}, (f"--include '{'z' * 300}' matched no image",)),
    ],
)
def test_a_pattern_that_matched_nothing_is_told(
    folder: Path, filters: dict[str, tuple[str, ...]], sentences: tuple[str, ...]
) -> None:
    assert find(folder, **filters)[1].unmatched == sentences


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("", "needs a pattern"), (" ", "needs a pattern"), ("{a,b}" * 11, "more than 1000 patterns")],
)
def test_a_pattern_that_nobody_can_mean_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Filters(exclude=(pattern,))


@given(st.text(alphabet="abz-./*?[]!{},\\#~ é\udce9", min_size=1))
def test_any_text_is_a_pattern_or_is_refused(text: str) -> None:
    try:
        find(Path("/nowhere"), include=(text,), exclude=(text,))
    except UsageError:
        assert not text.strip() or "{" in text
