"""Which files a walk takes, how it counts the others, and how named paths and lists of paths are read."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import UsageError
from captioning.paths import hash_of, is_below, text_of
from producer.sources import Filters, Walk, describe_skipped, read_list, read_sources


def create(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def walk(folder: Path, **filters: object) -> tuple[list[str], dict[str, int]]:
    """Return the paths that a walk finds, and what it skips."""
    entries = Walk(os.fsencode(folder), Filters(**filters))  # type: ignore[arg-type]
    found = [os.fsdecode(file.path) for file in entries]
    return found, {kind: n for kind, n in entries.skipped.items() if n}


def test_images_are_found_at_any_depth_and_in_upper_and_lower_case(tmp_path: Path) -> None:
    create(tmp_path, "b.JPG", "a.jpeg", "sub/deep/c.PnG", "sub/d.heic", "e.TIFF", "raw.CR2")
    assert walk(tmp_path) == (["a.jpeg", "b.JPG", "e.TIFF", "raw.CR2", "sub/d.heic", "sub/deep/c.PnG"], {})


def test_a_folder_with_many_names_is_sorted_block_by_block(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(7)]
    create(tmp_path, *names, "sub/a.jpg")
    found = [os.fsdecode(file.path) for file in Walk(os.fsencode(tmp_path), Filters(), sort_block=3)]
    assert sorted(found[:-1]) == names
    assert found[-1] == "sub/a.jpg"
    listed = [os.fsdecode(entry.name) for entry in os.scandir(os.fsencode(tmp_path))]
    assert found[:-1] == [name for i in (0, 3, 6) for name in sorted(listed[i : i + 3]) if name != "sub"]


def test_entries_that_are_not_images_are_counted_by_kind(tmp_path: Path) -> None:
    create(tmp_path, "a.jpg", "README.txt", ".hidden.jpg", ".git/b.jpg", "@eaDir/c.jpg", "folder.jpg/d.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("/etc/passwd")
    found, skipped = walk(tmp_path)
    assert found == ["a.jpg", "folder.jpg/d.png"]
    assert skipped == {
        "other file": 1,
        "hidden": 2,
        "thumbnail folder": 1,
        "special file": 1,
        "link": 1,
        "folder named like an image": 1,
    }


@pytest.mark.parametrize(
    ("skipped", "text"),
    [
        ({}, ""),
        ({"link": 0}, ""),
        ({"hidden": 1, "other file": 2}, "2 other files, 1 hidden file"),
        ({"hidden": 2, "filtered": 1}, "2 hidden files, 1 filtered image"),
        (
            {"link out of the folder": 3, "folder named like an image": 2},
            "3 links out of the folder, 2 folders named like an image",
        ),
        ({"folder that no longer exists": 2}, "2 folders that no longer exist"),
        ({"image that no longer exists": 1}, "1 image that no longer exists"),
        ({"image with a path that is too long": 2}, "2 images with a path that is too long"),
    ],
)
def test_skipped_entries_are_described_in_the_right_number(skipped: dict[str, int], text: str) -> None:
    assert describe_skipped(skipped) == text


def test_links_are_followed_only_on_request_and_never_out_of_the_folder(tmp_path: Path) -> None:
    create(tmp_path, "in/a.jpg", "in/sub/b.jpg", "out/c.jpg")
    (tmp_path / "in" / "a-link.jpg").symlink_to("a.jpg")
    (tmp_path / "in" / "cycle").symlink_to(".")
    (tmp_path / "in" / "up").symlink_to("../out")
    assert walk(tmp_path / "in") == (["a.jpg", "sub/b.jpg"], {"link": 3})
    found, skipped = walk(tmp_path / "in", follow_symlinks=True)
    assert found == ["a-link.jpg", "a.jpg", "sub/b.jpg"]
    assert skipped == {"link out of the folder": 1}


def test_include_and_exclude_match_names_and_paths(tmp_path: Path) -> None:
    create(tmp_path, "a.jpg", "drafts/b.jpg", "drafts/c.png")
    assert walk(tmp_path, include=("*.jpg",), exclude=("drafts/*",)) == (["a.jpg"], {"filtered": 2})


def test_a_folder_that_does_not_exist_any_more_is_counted_and_not_fatal(tmp_path: Path) -> None:
    create(tmp_path, "a.jpg")
    assert walk(tmp_path / "none") == ([], {"folder that no longer exists": 1})


def test_a_path_too_long_for_the_system_is_counted(tmp_path: Path) -> None:
    room = os.pathconf(tmp_path, "PC_PATH_MAX") - len(os.fsencode(tmp_path)) - 100
    here = os.open(tmp_path, os.O_RDONLY)
    for length in [200] * (room // 201) + [60]:
        os.mkdir("d" * length, dir_fd=here)
        here, above = os.open("d" * length, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    for name in ("short.jpg", "l" * 200 + ".jpg"):
        os.close(os.open(name, os.O_CREAT, dir_fd=here))
    os.close(here)
    found, skipped = walk(tmp_path)
    assert ([Path(path).name for path in found], skipped) == (["short.jpg"], {"image with a path that is too long": 1})


@pytest.mark.parametrize("year", [1901, 2300])
def test_a_file_may_have_any_time_and_one_beyond_the_limit_of_the_store_becomes_the_limit(
    tmp_path: Path, year: int
) -> None:
    create(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=((year - 1970) * 31_556_952 * 10**9,) * 2)
    (found,) = Walk(os.fsencode(tmp_path), Filters())
    assert found.mtime_ns == min((tmp_path / "a.jpg").stat().st_mtime_ns, 2**63 - 1)


def test_an_endless_device_is_refused_as_a_list() -> None:
    with pytest.raises(UsageError, match="never ends"):
        read_list("/dev/zero", null=True)
    assert read_list("/dev/null", null=False) == []


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such file or folder"):
        read_sources([os.fsencode(tmp_path / "nowhere")])


def test_a_folder_inside_another_is_walked_once(tmp_path: Path) -> None:
    create(tmp_path, "sub/a.jpg")
    sources = read_sources([os.fsencode(tmp_path), os.fsencode(tmp_path / "sub"), os.fsencode(tmp_path)])
    assert sources.folders == (os.fsencode(tmp_path),)


def test_a_link_that_a_person_names_is_followed(tmp_path: Path) -> None:
    create(tmp_path, "real/a.jpg")
    (tmp_path / "link").symlink_to("real")
    assert read_sources([os.fsencode(tmp_path / "link")]).folders == (os.fsencode(tmp_path / "real"),)


def test_lists_are_read_by_line_and_by_nul(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"a.jpg\r\n\nb c.jpg\n")
    (tmp_path / "nul").write_bytes(b"a\n.jpg\0b\xe9.jpg\0")
    assert read_list(str(tmp_path / "lines"), null=False) == [b"a.jpg", b"b c.jpg"]
    assert read_list(str(tmp_path / "nul"), null=True) == [b"a\n.jpg", b"b\xe9.jpg"]


def test_a_list_read_without_its_option_is_answered_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"a.jpg\0b.jpg\0")
    with pytest.raises(UsageError, match="separated by NUL with -0"):
        read_sources([], read_list(str(tmp_path / "list"), null=False))


PATHS = st.binary(min_size=1, max_size=60).filter(lambda b: b"\0" not in b)
PARTS = st.binary(min_size=1, max_size=5).filter(lambda b: b"/" not in b and b"\0" not in b)


@given(PATHS)
def test_every_path_has_a_text_that_any_database_accepts(path: bytes) -> None:
    text = text_of(path)
    text.encode("utf-8")
    try:
        assert text == path.decode("utf-8")
    except UnicodeDecodeError:
        assert "%" in text


@given(PATHS, PATHS)
def test_different_paths_have_different_hashes(one: bytes, other: bytes) -> None:
    assert (hash_of(one) == hash_of(other)) == (one == other)


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_a_path_is_below_its_ancestors_and_not_below_its_neighbours(parts: list[bytes]) -> None:
    path = b"/" + b"/".join(parts)
    for i in range(1, len(parts) + 1):
        folder = b"/" + b"/".join(parts[:i])
        assert is_below(path, folder)
        assert not is_below(path + b"x", path)
    assert is_below(path, b"/")
