"""Sidecars: what a person has beside an image is never lost, replaced or reached through a link."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from captioning.errors import UsageError
from captioning.store import edits
from captioning.store.captions import Selection, export_rows
from captioning.store.database import Database
from captioning.store.sidecars import last_export
from producer.export import xmp_packet as xmp
from producer.export.forms import Form, OnExisting, TextForm, XmpForm
from producer.export.sidecars import EDITED, EXISTS, SidecarExport, Written, undo_export
from producer.export.text import TextOptions
from scripts.sample_images import copy_samples

TXT = TextForm("txt")
POLICIES = [OnExisting.APPEND, OnExisting.PREPEND, OnExisting.OVERWRITE]
PERSONS = f'<rdf:RDF xmlns:rdf="{xmp.RDF}"><rdf:Description rdf:about="" xmlns:p="urn:p:" p:mine="1"/></rdf:RDF>'


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of photographs that a test may write to."""
    copy_samples(tmp_path / "photographs")
    return tmp_path / "photographs"


@pytest.fixture
def export(captioned_store: Database, photographs: Path) -> Callable[..., Written]:
    """Return a function that exports sidecars beside the photographs."""
    assert photographs.is_dir()

    def export(
        form: Form = TXT,
        on_existing: OnExisting = OnExisting.SKIP,
        text: TextOptions = TextOptions(),  # noqa: B008, a value
        mirror: Path | None = None,
    ) -> Written:
        writer = SidecarExport(
            captioned_store, form, text.apply, on_existing, None if mirror is None else os.fsencode(mirror)
        )
        rows = Selection(fitting=True)
        writer.require_one_name_each(export_rows(captioned_store, rows))
        writer.refuse_doubled(export_rows(captioned_store, rows))
        return writer.write(export_rows(captioned_store, rows), {}, lambda n: None)

    return export


def texts(folder: Path, pattern: str = "*.txt") -> dict[str, str]:
    """Return the sidecars in a folder."""
    return {file.name: file.read_text() for file in sorted(folder.glob(pattern))}


def test_each_image_gets_its_caption_and_a_second_export_writes_nothing(
    export: Callable[..., Written], photographs: Path
) -> None:
    done = export(text=TextOptions("photo of "))
    assert (done.new, done.written, done.counts) == (10, 10, {})
    assert all(text.startswith("photo of two dogs run past image ") for text in texts(photographs).values())
    again = export(text=TextOptions("photo of "))
    assert (again.written, again.same) == (0, 10)


def test_our_sidecars_are_renewed_and_what_somebody_changed_or_wrote_stays(
    export: Callable[..., Written], photographs: Path, captioned_store: Database
) -> None:
    (photographs / "coffee.txt").write_text("mine\n")
    assert export().counts == {EXISTS: 1}
    (photographs / "rocket.txt").write_text("changed\n")
    (photographs / "grass.txt").unlink()
    done = export(text=TextOptions(suffix="!"))
    assert (done.new, done.renewed, done.counts) == (1, 7, {EXISTS: 1, EDITED: 1})
    assert texts(photographs)["coffee.txt"] == "mine\n"
    assert texts(photographs)["rocket.txt"] == "changed\n"
    undo_export(captioned_store, last_export(captioned_store).change)
    assert texts(photographs) == {"coffee.txt": "mine\n", "rocket.txt": "changed\n"}


@pytest.mark.parametrize("how", POLICIES)
def test_a_caption_joins_what_a_person_wrote_once_and_an_undo_puts_the_old_bytes_back(
    how: OnExisting, export: Callable[..., Written], photographs: Path, captioned_store: Database
) -> None:
    mine = b"\xef\xbb\xbf  eigene W\xc3\xb6rter \r\n\r\n"
    (photographs / "coffee.txt").write_bytes(mine)
    export(on_existing=how)
    first = (photographs / "coffee.txt").read_bytes()
    assert b"two dogs" in first
    assert (b"eigene" in first) == (how is not OnExisting.OVERWRITE)
    assert export(on_existing=how).same == 10
    assert (photographs / "coffee.txt").read_bytes() == first
    export(on_existing=OnExisting.SKIP, text=TextOptions("now "))
    renewed = (photographs / "coffee.txt").read_text()
    assert renewed.count("two dogs") == 1
    assert "now two dogs" in renewed
    done = undo_export(captioned_store, last_export(captioned_store).change)
    assert (done.removed, done.restored) == (9, 1)
    assert (photographs / "coffee.txt").read_bytes() == mine
    assert list(texts(photographs)) == ["coffee.txt"]


def test_an_export_over_a_changed_file_keeps_the_changed_bytes_for_an_undo(
    export: Callable[..., Written], photographs: Path, captioned_store: Database
) -> None:
    export()
    (photographs / "coffee.txt").write_text("changed\n")
    assert export(on_existing=OnExisting.OVERWRITE).changed == 1
    undo_export(captioned_store, last_export(captioned_store).change)
    assert texts(photographs)["coffee.txt"] == "changed\n"


def test_xmp_is_merged_and_a_description_that_is_there_stays(
    export: Callable[..., Written], photographs: Path, captioned_store: Database
) -> None:
    words = f'<dc:description xmlns:dc="{xmp.DC}">mine</dc:description>'
    described = PERSONS.replace("/></rdf:RDF>", f">{words}</rdf:Description></rdf:RDF>").encode()
    (photographs / "coffee.xmp").write_bytes(described)
    (photographs / "grass.xmp").write_text(PERSONS)
    (photographs / "rocket.xmp").write_text("no XML")
    assert export(XmpForm()).counts == {EXISTS: 3}
    done = export(XmpForm(), OnExisting.MERGE)
    assert (done.changed, sum(done.counts.values())) == (2, 1)
    merged = xmp.parse((photographs / "coffee.xmp").read_bytes())
    assert merged.text(xmp.DESCRIPTION) == "mine"
    assert str(merged.text(xmp.ALT_TEXT)).startswith("two dogs")
    assert 'p:mine="1"' in (photographs / "grass.xmp").read_text()
    assert export(XmpForm(), OnExisting.MERGE).written == 0
    export(XmpForm(), OnExisting.OVERWRITE)
    assert str(xmp.parse((photographs / "coffee.xmp").read_bytes()).text(xmp.DESCRIPTION)).startswith("two dogs")
    undo_export(captioned_store, last_export(captioned_store).change)
    assert (photographs / "coffee.xmp").read_bytes() == described
    assert (photographs / "rocket.xmp").read_text() == "no XML"


def test_the_full_name_is_used_where_a_program_wants_it(export: Callable[..., Written], photographs: Path) -> None:
    export(XmpForm(with_full_name=True))
    assert (photographs / "coffee.png.xmp").exists()
    assert not (photographs / "coffee.xmp").exists()


def test_a_mirrored_tree_has_the_folders_of_the_images_and_touches_none_of_them(
    export: Callable[..., Written], photographs: Path, tmp_path: Path
) -> None:
    before = sorted(photographs.iterdir())
    assert export(mirror=tmp_path / "tree").new == 10
    assert sorted(photographs.iterdir()) == before
    assert "coffee.txt" in texts(tmp_path / "tree")


def test_links_are_never_followed_and_files_with_two_names_never_changed(
    export: Callable[..., Written], photographs: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("untouched\n")
    (photographs / "coffee.txt").symlink_to(outside)
    (photographs / "grass.txt").hardlink_to(outside)
    (photographs / "rocket.txt").mkdir()
    done = export(on_existing=OnExisting.OVERWRITE)
    assert done.new == 7
    assert sorted(done.counts) == [
        "it has a second name, a hard link, somewhere else",
        "it is a symbolic link",
        "it is no regular file",
    ]
    assert outside.read_text() == "untouched\n"


def test_what_a_killed_export_left_is_removed_by_the_next_one(
    export: Callable[..., Written], photographs: Path
) -> None:
    (photographs / ".captionmill-0123456789abcdef").write_text("half a capt")
    export()
    assert not list(photographs.glob(".captionmill-*"))


def test_two_images_with_one_sidecar_are_an_error_that_names_both_and_nothing_is_written(
    export: Callable[..., Written], photographs: Path, captioned_store: Database
) -> None:
    with captioned_store.writing() as connection:
        connection.exec_driver_sql("UPDATE files SET path_bytes = CAST('coffee.jpg' AS BLOB) WHERE path = 'rocket.jpg'")
    with pytest.raises(UsageError, match=r"coffee\.jpg.* would both have .*coffee\.txt"):
        export()
    assert texts(photographs) == {}
    (photographs / "rocket.jpg").rename(photographs / "coffee.jpg")
    assert export(XmpForm(with_full_name=True)).new == 10


def test_a_caption_of_a_person_for_other_content_is_not_written(
    export: Callable[..., Written], photographs: Path, captioned_store: Database
) -> None:
    rows = {Path(row.path).name: row for row in export_rows(captioned_store)}
    edits.correct(captioned_store, rows["coffee.png"].file_id, "my cup")
    export()
    assert texts(photographs)["coffee.txt"] == "my cup\n"
    with captioned_store.writing() as connection:
        other = "SELECT image_id FROM files WHERE path = 'rocket.jpg'"
        connection.exec_driver_sql(f"UPDATE files SET image_id = ({other}) WHERE path = 'coffee.png'")
    export()
    assert texts(photographs)["coffee.txt"].startswith("two dogs")
