"""What is in an archive is listed and read in place, whatever its format; hostile archives are refused."""

import io
import os
import struct
import tarfile
import warnings
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.archives import (
    ArchiveLimits,
    archive_of,
    is_archive,
    list_archive,
    member_path,
    open_archive_at,
    split_member,
)
from captioning.archives.zips import MAX_DIRECTORY_BYTES
from captioning.errors import ArchiveError, ImageError
from captioning.values import Reason
from tests.support.archives import add, write_archive, write_tar, write_zip

KINDS = ("a.zip", "a.tar", "a.tgz", "a.tbz2", "a.txz")
FILES = {"dogs/a.jpg": b"first", "b.jpg": b"second", "dogs/c.jpg": b"third"}


def members(path: Path, limits: ArchiveLimits | None = None) -> dict[bytes, str]:
    """Return the names and the problems of the members."""
    return {member.name: member.problem for member in list_archive(os.fsencode(path), limits or ArchiveLimits())}


def read(path: Path, *names: str, max_bytes: int = 1000) -> list[bytes]:
    with closing(open_archive_at(os.fsencode(path), ArchiveLimits())) as archive:
        return [archive.read(os.fsencode(name), max_bytes, lambda: None) for name in names]


def refusal(path: Path, limits: ArchiveLimits | None = None) -> str:
    with pytest.raises(ArchiveError) as raised:
        members(path, limits)
    return str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_listed_and_read_in_any_order(tmp_path: Path, kind: str) -> None:
    path = write_archive(tmp_path / kind, FILES)
    assert members(path) == dict.fromkeys(map(os.fsencode, FILES), "")
    assert [member.size for member in list_archive(os.fsencode(path), ArchiveLimits())] == [5, 6, 5]
    assert read(path, *FILES) == list(FILES.values())
    assert read(path, *reversed(FILES), "b.jpg") == [b"third", b"second", b"first", b"second"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_not_there_is_missing_and_a_large_one_is_too_large(tmp_path: Path, kind: str) -> None:
    path = write_archive(tmp_path / kind, FILES)
    for name, limit, reason in (("none.jpg", 1000, Reason.MISSING), ("b.jpg", 5, Reason.TOO_LARGE)):
        with pytest.raises(ImageError) as raised:
            read(path, name, max_bytes=limit)
        assert raised.value.reason is reason


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_lead_out_of_the_archive_are_problems(tmp_path: Path, kind: str) -> None:
    unsafe = ("../a.jpg", "/etc/b.jpg", "x/../../c.jpg", "..\\d.jpg", "C:\\e.jpg", "x//f.jpg", "x/./g.jpg")
    path = write_archive(tmp_path / kind, dict.fromkeys((*unsafe, "good.jpg"), b"x"))
    found = members(path)
    assert found.pop(b"good.jpg") == ""
    assert set(found.values()) == {"member with an unsafe path"}
    assert len(found) == len(unsafe)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_occurs_twice_is_a_problem_because_nobody_knows_which_is_meant(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's, about the repeated name
        path = write_archive(tmp_path / kind, [("a.jpg", b"one"), ("b.jpg", b"x"), ("a.jpg", b"two")])
    assert members(path) == {b"a.jpg": "member with a repeated name", b"b.jpg": ""}


def test_links_devices_and_sparse_files_in_a_tar_are_problems(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("device", tarfile.CHRTYPE),
                           ("pipe", tarfile.FIFOTYPE), ("sparse", tarfile.GNUTYPE_SPARSE)):  # fmt: skip
            info = tarfile.TarInfo(f"{name}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            add(archive, info)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    found = members(tmp_path / "a.tar")
    assert len(found) == 5
    assert set(found.values()) == {"linked or special member"}


def test_links_encrypted_members_and_rare_compressions_in_a_zip_are_problems(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"x"})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("rare.jpg", b"x", zipfile.ZIP_BZIP2)
        archive.writestr("secret.jpg", b"x")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1  # the flag in the directory
    path.write_bytes(data)
    assert members(path) == {
        b"a.jpg": "",
        b"link.jpg": "linked or special member",
        b"rare.jpg": "member with a rare compression",
        b"secret.jpg": "encrypted member",
    }


def test_names_are_the_bytes_that_are_in_the_archive(tmp_path: Path) -> None:
    name = "caf\udce9.jpg"
    write_tar(tmp_path / "a.tar", {name: b"x"})
    path = write_zip(tmp_path / "a.zip", {"caf_.jpg": b"x", "ü.jpg": b"y"})
    path.write_bytes(path.read_bytes().replace(b"caf_", b"caf\xe9"))
    assert members(tmp_path / "a.tar") == {b"caf\xe9.jpg": ""}
    assert members(path) == {b"caf\xe9.jpg": "", "ü.jpg".encode(): ""}
    assert read(path, name, "ü.jpg") == [b"x", b"y"]


def test_a_tar_as_tar_itself_writes_one_of_the_current_folder_has_plain_names(tmp_path: Path) -> None:
    assert members(write_tar(tmp_path / "a.tar", {"./a.jpg": b"x", "./sub/b.jpg": b"y"})) == {
        b"a.jpg": "",
        b"sub/b.jpg": "",
    }


# -- bombs and damage --


@pytest.mark.parametrize("kind", ["a.zip", "a.tgz", "a.txz"])
def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    zeros = bytes(150_000_000)
    if kind == "a.zip":
        write_zip(tmp_path / kind, {"a.bmp": zeros}, zipfile.ZIP_DEFLATED)
    else:
        write_archive(tmp_path / kind, {"a.bmp": zeros})
    message = refusal(tmp_path / kind)
    assert "unpack to more than 10" in message
    assert "CAPTIONING_MAX_ARCHIVE_RATIO=100" in message
    assert "\n" not in message
    assert members(tmp_path / kind, ArchiveLimits(ratio=10_000)) == {b"a.bmp": ""}


def test_a_zip_in_which_members_share_their_bytes_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": bytes(range(256)) * 100})
    data = path.read_bytes()
    start = data.rindex(b"PK\1\2")
    end = data.rindex(b"PK\5\6")
    entry = data[start:end]
    entries = b"".join(entry.replace(b"a.jpg", b"%c.jpg" % letter) for letter in b"abcdefgh")
    tail = bytearray(data[end:])
    struct.pack_into("<HHL", tail, 8, 8, 8, len(entries))
    path.write_bytes(data[:start] + entries + tail)
    assert "overlap" in refusal(path)


def test_a_member_that_unpacks_to_more_than_its_stated_size_is_damaged_not_unpacked(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": bytes(1_000_000)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, data.rindex(b"PK\1\2") + 24, 100)
    path.write_bytes(data)
    with pytest.raises(ImageError) as raised:
        read(path, "a.jpg")
    assert raised.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_with_too_many_members_is_refused(tmp_path: Path, kind: str) -> None:
    path = write_archive(tmp_path / kind, FILES)
    assert "CAPTIONING_MAX_ARCHIVE_MEMBERS" in refusal(path, ArchiveLimits(members=2))
    assert len(members(path, ArchiveLimits(members=3))) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_unpacks_to_too_many_bytes_is_refused(tmp_path: Path, kind: str) -> None:
    path = write_archive(tmp_path / kind, FILES | {"d.jpg": bytes(20_000)})
    assert "CAPTIONING_MAX_ARCHIVE_BYTES" in refusal(path, ArchiveLimits(unpacked_bytes=20_000))


def test_a_header_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("long")
        info.type = tarfile.GNUTYPE_LONGNAME
        add(archive, info, bytes(5_000_000))
    assert "header" in refusal(tmp_path / "a.tgz")


def test_a_negative_size_is_damage_and_no_endless_loop(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"size": "-1536"}
        add(archive, info)
    assert "damaged" in refusal(tmp_path / "a.tar")


def test_a_directory_that_takes_all_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(MAX_DIRECTORY_BYTES + 1000)  # sparse
        file.seek(0, io.SEEK_END)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, MAX_DIRECTORY_BYTES + 1, 4, 0))
    assert "directory" in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_cut_short_or_no_archive_is_refused_or_shorter(tmp_path: Path, kind: str) -> None:
    noise = os.urandom(30_000)
    data = write_archive(tmp_path / kind, {"a.jpg": noise, "b.jpg": noise}).read_bytes()
    (tmp_path / kind).write_bytes(data[: len(data) * 2 // 3])
    assert "damaged" in refusal(tmp_path / kind)
    for content in (b"", b"<!DOCTYPE html>", b"PK\3\4", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0"):
        (tmp_path / kind).write_bytes(content)
        assert "damaged" in refusal(tmp_path / kind)


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"inner.jpg": b"x"}).read_bytes()
    assert members(write_tar(tmp_path / "a.tar", {"a.jpg": b"x", "inner.zip": inner})) == {
        b"a.jpg": "",
        b"inner.zip": "",
    }


@given(data=st.binary(max_size=300), start=st.sampled_from(["", "zip", "tar", "tgz"]), at=st.integers(0, 400))
def test_any_bytes_give_members_or_a_refusal(
    data: bytes, start: str, at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.zip"
    if start:
        write_archive(path.with_suffix(f".{start}"), FILES)
        whole = path.with_suffix(f".{start}").read_bytes()
        data = whole[:at] + data + whole[at + len(data) :]
    path.write_bytes(data)
    try:
        found = members(path)
    except ArchiveError:
        return
    for name, problem in found.items():
        if not problem:
            with closing(open_archive_at(os.fsencode(path), ArchiveLimits())) as archive:
                try:
                    archive.read(name, 1000, lambda: None)
                except ImageError:
                    continue


# -- names --


@given(
    archive=st.sampled_from([b"/x/a.zip", b"/x/B.TAR.GZ", b"y.tgz"]),
    name=st.binary(min_size=1).filter(lambda name: not name.startswith(b"/")),
)
def test_a_path_of_a_member_has_the_archive_and_the_name(archive: bytes, name: bytes) -> None:
    path = member_path(archive, name)
    assert split_member(path) == (archive, name)
    assert archive_of(path) == archive_of(member_path(archive)) == archive


def test_the_first_archive_in_a_path_counts_and_other_paths_have_none() -> None:
    assert split_member(b"/a.zip!/b.zip!/c.jpg") == (b"/a.zip", b"b.zip!/c.jpg")
    for path in (b"/a.zip", b"/a.zip/b.jpg", b"/a.zip!", b"/.zip!/a.jpg", b"/azip!/b.jpg", b"/hello!/a.jpg"):
        assert split_member(path) is None
    assert is_archive(b"a.zip")
    assert is_archive(b"/x/photos.Tar.Gz")
    assert not is_archive(b".zip")
    assert not is_archive(b"a.gz")
