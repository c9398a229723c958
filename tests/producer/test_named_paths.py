"""How paths on the command line and lists of paths are read."""

import os
import unicodedata
from pathlib import Path

import pytest

from captioning.errors import UsageError
from producer.sources import Filters, ImageFinder, Sources, read_list, read_sources
from tests.producer.folders import create


class Recorder:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.paths: list[bytes] = []
        self.warnings: list[str] = []

    def skipped(self, path: bytes, category: str) -> None:
        self.paths.append(path)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def read_lines(folder: Path, data: bytes) -> Sources:
    """Read a list whose paths are relative to a folder."""
    (folder / "list").write_bytes(data)
    return read_sources([], read_list(str(folder / "list"), null=False))


def names(sources: Sources) -> list[str]:
    return [Path(os.fsdecode(path)).name for path in sources.files]


def test_an_endless_device_is_refused_as_a_list() -> None:
    with pytest.raises(UsageError, match="never ends"):
        read_list("/dev/zero", null=True)
    assert list(read_list("/dev/null", null=False)) == []


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
    assert list(read_list(str(tmp_path / "lines"), null=False)) == [b"a.jpg", b"b c.jpg"]
    assert list(read_list(str(tmp_path / "nul"), null=True)) == [b"a\n.jpg", b"b\xe9.jpg"]


def test_a_list_read_with_the_wrong_separator_is_answered_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "nul").write_bytes(b"a.jpg\0b.jpg\0")
    (tmp_path / "lines").write_bytes(b"a.jpg\nb.jpg\n")
    with pytest.raises(UsageError, match="separated by NUL with -0"):
        read_list(str(tmp_path / "nul"), null=False)
    with pytest.raises(UsageError, match="read a list of lines without -0"):
        read_list(str(tmp_path / "lines"), null=True)


def test_a_line_with_nul_loses_only_itself(tmp_path: Path) -> None:
    create(tmp_path, "a.jpg", "c.jpg")
    folder = os.fsencode(tmp_path)
    sources = read_lines(tmp_path, b"%b/a.jpg\n%b/b\0.jpg\n%b/c.jpg\n" % (folder, folder, folder))
    assert names(sources) == ["a.jpg", "c.jpg"]
    assert sources.skipped == {"path with NUL": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_list_may_be_in_the_encodings_in_which_systems_write_one(
    tmp_path: Path, encoding: str, line_end: str
) -> None:
    create(tmp_path, "ä 1.jpg", "b.jpg")
    text = line_end.join([str(tmp_path / "ä 1.jpg"), "", str(tmp_path / "b.jpg"), ""])
    for mark in ("\ufeff", "") if encoding.endswith(("-le", "-be")) else ("",):
        assert names(read_lines(tmp_path, (mark + text).encode(encoding))) == ["ä 1.jpg", "b.jpg"]


def test_what_is_there_of_a_list_is_taken_and_the_rest_counted_and_told(tmp_path: Path) -> None:
    create(tmp_path, "a.jpg", "b.mov", "c.unknown")
    os.mkfifo(tmp_path / "pipe.jpg")
    listed = [os.fsencode(tmp_path / name) for name in ("a.jpg", "b.mov", "gone.jpg", "c.unknown", "pipe.jpg", "x/y")]
    recorder = Recorder()
    sources = read_sources([], listed, recorder)
    assert names(sources) == ["a.jpg", "c.unknown"]
    assert sources.skipped == {".mov video": 1, "path that does not exist": 2, "special file": 1}
    assert recorder.paths == [listed[1], listed[2], listed[4], listed[5]]
    assert [warning.removeprefix(f"{tmp_path}/") for warning in recorder.warnings] == [
        "b.mov is a video: export frames of it as JPEG files first",
        "gone.jpg: no such file or folder",
        "pipe.jpg is not a regular file",
        "and 1 more path; --list-skipped names all",
    ]


def test_a_list_with_nothing_usable_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"none of the 3 paths can be used: .*gone0: no such file or folder, and 2 more"
    ):
        read_sources([], [os.fsencode(tmp_path / f"gone{i}") for i in range(3)])
    with pytest.raises(UsageError, match="the list names no path"):
        read_sources([], [])


@pytest.mark.parametrize(
    "line",
    ['"{folder}/my image.jpg"', "'{folder}/my image.jpg'", "  {folder}/my image.jpg\t", "file://{folder}/my%20image.jpg",
     "file://localhost{folder}/my%20image.jpg", '"file://{folder}/my%20image.jpg"'],
)  # fmt: skip
def test_a_line_may_be_quoted_or_a_file_url(tmp_path: Path, line: str) -> None:
    create(tmp_path, "my image.jpg")
    assert names(read_lines(tmp_path, line.format(folder=tmp_path).encode())) == ["my image.jpg"]


def test_a_name_is_found_as_it_is_printed_and_in_a_list_of_an_old_windows_program(tmp_path: Path) -> None:
    create(tmp_path, os.fsdecode(b"caf\xe9.jpg"), "\u00fc.jpg")
    found = read_lines(tmp_path, b"%b/caf%%E9.jpg\n%b/\xfc.jpg\n" % ((os.fsencode(tmp_path),) * 2))
    assert names(found) == [os.fsdecode(b"caf\xe9.jpg"), "\u00fc.jpg"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (b"ftp://example.com/a.jpg", "is a web address: download the image first"),
        (b"none/*.jpg", "no such file or folder; nothing matches this pattern"),
        (b"x" * 9999, "xxx\\.\\.\\.: File name too long"),
    ],
)
def test_a_path_that_cannot_be_found_gets_the_advice_that_fits(path: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_sources([path])
    assert len(str(caught.value)) < 400


def test_a_name_with_quotes_is_taken_as_it_is_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create(tmp_path, "'a.jpg'", "a.jpg", " b.jpg", "b.jpg")
    assert names(read_lines(tmp_path, b"'a.jpg'\n b.jpg\n")) == ["'a.jpg'", " b.jpg"]


def test_a_path_is_found_in_its_other_unicode_form_part_by_part(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    path = tmp_path / nfd / nfc / f"{nfd}.jpg"
    create(tmp_path, str(path.relative_to(tmp_path)))
    for wrong in (f"{nfc}/{nfc}/{nfc}.jpg", f"{nfd}/{nfd}/{nfd}.jpg", f"{nfc}/{nfd}/{nfc}.jpg"):
        assert read_sources([os.fsencode(tmp_path / wrong)]).files == (os.fsencode(path),)
    assert read_sources([os.fsencode(tmp_path / nfc)]).folders == (os.fsencode(tmp_path / nfd),)
    with pytest.raises(UsageError, match="no such file"):
        read_sources([os.fsencode(tmp_path / nfc / "none.jpg")])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.7z", "a.7z is an archive: unpack it first."),
        ("a.tar.zst", "a.tar.zst is an archive: unpack it first."),
        ("a.MP4", "a.MP4 is a video: export frames"),
        ("a.pdf", "a.pdf is a document"),
        ("a.svg", "a.svg is a vector graphic"),
    ],
)
def test_a_named_file_that_is_certainly_not_an_image_is_refused_with_its_remedy(
    tmp_path: Path, name: str, message: str
) -> None:
    create(tmp_path, name, "b.jpg")
    with pytest.raises(UsageError, match=message):
        read_sources([os.fsencode(tmp_path / name)])
    both = read_sources([os.fsencode(tmp_path / "b.jpg"), os.fsencode(tmp_path / name)])
    assert (names(both), both.skipped.total()) == (["b.jpg"], 1)


def test_a_typing_error_among_other_paths_is_told_before_anything_is_done(tmp_path: Path) -> None:
    create(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match=r"b\.jpg: no such file or folder"):
        read_sources([os.fsencode(tmp_path / "a.jpg"), os.fsencode(tmp_path / "b.jpg")])


def test_a_named_file_that_is_deleted_after_it_was_read_is_counted(tmp_path: Path) -> None:
    create(tmp_path, "a.jpg", "b.jpg")
    sources = read_sources([os.fsencode(tmp_path / "a.jpg"), os.fsencode(tmp_path / "b.jpg")])
    (tmp_path / "a.jpg").unlink()
    finder = ImageFinder(sources, Filters())
    assert [file.path for file in finder] == [os.fsencode(tmp_path / "b.jpg")]
    assert finder.skipped == {"image that no longer exists": 1}


def test_only_the_outermost_of_listed_folders_are_walked(tmp_path: Path) -> None:
    create(tmp_path, "b/x/a.jpg", "b-c/a.jpg", "a/a.jpg")
    listed = [os.fsencode(tmp_path / name) for name in ("b/x", "b-c", "b", "a", "b")]
    assert read_sources([], listed).folders == tuple(listed[1:4])
