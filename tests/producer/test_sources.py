"""Which files a walk takes, and how it counts the others."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.paths import hash_of, is_below, text_of, unicode_forms
from producer.sources import Filters, describe_skipped
from producer.sources.skips import Skips
from producer.sources.walk import Walk
from tests.producer.folders import create, walk


def new_walk(folder: Path, **options: int) -> Walk:
    return Walk(os.fsencode(folder), Filters(), Skips(lambda path, category: None), set(), **options)


def test_images_are_found_at_any_depth_and_in_upper_and_lower_case(tmp_path: Path) -> None:
    create(tmp_path, "b.JPG", "a.jpeg", "sub/deep/c.PnG", "sub/d.heic", "e.TIFF", "raw.CR2")
    assert walk(tmp_path) == (["a.jpeg", "b.JPG", "e.TIFF", "raw.CR2", "sub/d.heic", "sub/deep/c.PnG"], {})


def test_a_folder_with_many_names_is_sorted_block_by_block(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(7)]
    create(tmp_path, *names, "sub/a.jpg")
    found = [os.fsdecode(file.path) for file in new_walk(tmp_path, sort_block=3)]
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
        ".txt file": 1,
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
        ({".mov video": 2, ".txt file": 1, ".xmp sidecar": 5}, "5 .xmp sidecars, 2 .mov videos, 1 .txt file"),
        ({"recycle bin": 2, "snapshot folder": 3}, "3 snapshot folders, 2 recycle bins"),
        ({"path that does not exist": 2}, "2 paths that do not exist"),
        ({"image (Input/output error)": 2}, "2 images (Input/output error)"),
        (
            {f".a{i} file": 1 for i in range(10)},
            ", ".join(f"1 .a{i} file" for i in range(8)) + " and 2 of other kinds",
        ),
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


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        ("a.mov b.MOV c.mp4 d.txt", {".mov video": 2, ".mp4 video": 1, ".txt file": 1}),
        ("a.svg b.ico c.zip d.pdf e.xmp f.thm g.wav", {
            ".svg vector graphic": 1, ".ico icon": 1, ".zip archive": 1, ".pdf document": 1, ".xmp sidecar": 1,
            ".thm thumbnail": 1, ".wav sound": 1,
        }),
        ("README a. IMG.20230101 b.\xe9 c.a\nb d.averyveryverylongend", {"other file": 6}),
    ],
)  # fmt: skip
def test_files_that_are_not_images_are_counted_by_extension_and_kind(
    tmp_path: Path, names: str, counted: dict[str, int]
) -> None:
    create(tmp_path, *names.split(" "))
    assert walk(tmp_path) == ([], counted)


def test_raw_files_and_videos_of_live_photos_come_with_the_image_beside_them_and_after_it(tmp_path: Path) -> None:
    create(tmp_path, "IMG_1.HEIC", "IMG_1.MOV", "b.JPG", "b.mov", "b.heic", "c.mov", "d.png", "d.mov", "e/IMG_1.mov")
    create(tmp_path, "f.CR3", "f.jpeg", "g.nef")
    skips = Skips(lambda path, category: None)
    found = [
        (f.path.decode(), f.partner and f.partner.decode()) for f in Walk(bytes(tmp_path), Filters(), skips, set())
    ]
    assert found == [
        ("IMG_1.HEIC", None), ("b.JPG", None), ("b.heic", None), ("d.png", None), ("f.jpeg", None), ("g.nef", None),
        ("IMG_1.MOV", "IMG_1.HEIC"), ("b.mov", "b.JPG"), ("f.CR3", "f.jpeg"),
    ]  # fmt: skip
    assert skips.counts == {".mov video": 3}


def test_a_thousand_different_endings_do_not_fill_the_row_of_a_job() -> None:
    skips = Skips(lambda path, category: None)
    for i in range(1000):
        skips.add(b"", f".x{i} file")
    assert len(skips.counts) <= 201
    assert skips.counts.total() == 1000


TAKEN = (
    "hif pef nrw srw 3fr iiq psd insp pjpeg dib apng jfi crw mrw x3f erf kdc dcr mos mef fff rwl sr2 srf gpr j2k jxr"
    " wdp heics avifs xcf tga ppm"
)


@pytest.mark.parametrize("extension", TAKEN.split())
def test_what_cameras_phones_and_editors_have_written_is_taken(tmp_path: Path, extension: str) -> None:
    create(tmp_path, f"a.{extension}", f"b.{extension.upper()}")
    assert walk(tmp_path) == ([f"a.{extension}", f"b.{extension.upper()}"], {})


PRIVATE = {
    "recycle bin": "$RECYCLE.BIN $Recycle.Bin RECYCLER #recycle @Recycle files_trashbin Google_Photos/Trash",
    "snapshot folder": "#snapshot ~snapshot @Recently-Snapshot @GMT-2024.01.31-00.00.00 files_versions",
    "thumbnail folder": "@eaDir @EADIR M4ROOT/THMBNL cache/thumbnails",
    "system folder": "System_Volume_Information lost+found LOST.DIR FOUND.001 __MACOSX appdata_oc1a2b3c4d5e",
    "preview folder": "My_Previews.lrdata My_Smart_Previews.lrdata CaptureOne/Cache A.cocatalog/Cache"
    " P.photoslibrary/resources P.photoslibrary/database P.photoslibrary/private P.PhotosLibrary/scopes"
    " P.photolibrary/Thumbnails Aperture.aplibrary/Previews iPhoto_Library/Data",
    "hidden": ".Trash-1000 .zfs .snapshots .@__thumb .thumbnails .dtrash .picasaoriginals",
}


@pytest.mark.parametrize(
    ("category", "path"), [(category, path) for category, paths in PRIVATE.items() for path in paths.split(" ")]
)
def test_private_folders_of_systems_and_programs_are_passed_over_unless_they_are_named(
    tmp_path: Path, category: str, path: str
) -> None:
    private = path.replace("_", " ") if path.startswith(("System", "My", "iPhoto", "Google")) else path
    create(tmp_path, "a.jpg", f"{private}/x/b.jpg")
    assert walk(tmp_path) == (["a.jpg"], {category: 1})
    assert walk(tmp_path / private) == (["x/b.jpg"], {})


@pytest.mark.parametrize(
    "path",
    ["P.photoslibrary/originals/0/a.jpg", "P.photolibrary/Masters/2011/a.jpg", "iPhoto Library/Originals/a.jpg",
     "Mobile Downloads.lrdata/a.jpg", "Cache/a.jpg", "resources/a.jpg", "thumbs/a.jpg", "Thumbnails/a.jpg",
     "A.aplibrary/2007.approject/1/a.jpg", "scopes/database/private/a.jpg"],
)  # fmt: skip
def test_originals_and_folders_of_a_common_name_are_walked(tmp_path: Path, path: str) -> None:
    create(tmp_path, path)
    assert walk(tmp_path) == ([path], {})


def test_thumbs_of_immich_are_known_by_its_mark(tmp_path: Path) -> None:
    create(tmp_path, "thumbs/a.jpg", "thumbs/.immich", "upload/b.jpg", "upload/.immich")
    assert walk(tmp_path) == (["upload/b.jpg"], {"thumbnail folder": 1, "hidden": 1})


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
    (found,) = new_walk(tmp_path)
    assert found.mtime_ns == min((tmp_path / "a.jpg").stat().st_mtime_ns, 2**63 - 1)


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


def test_a_path_has_a_unicode_form_for_each_mixture_of_its_parts() -> None:
    composed, decomposed = "\u00e9".encode(), "e\u0301".encode()
    forms = {b"/".join((one, b"\xff", two)) for one in (composed, decomposed) for two in (composed, decomposed)}
    assert set(unicode_forms(composed + b"/\xff/" + decomposed)) == forms
    assert len(unicode_forms(b"/".join([composed] * 50))) < 20


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
