"""A gallery shows what the database has, in files that need no server; nothing in a name or a caption is markup."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image

from captioning.decoding.messages import Options
from captioning.decoding.pool import DecodePool
from captioning.model.pixels import Limits
from captioning.settings import Settings
from captioning.store import details, edits
from captioning.store.captions import export_rows
from captioning.store.database import Database
from captioning.store.details import DetailedFile
from captioning.store.schema import Attention, Caption
from producer.content import ContentReader
from producer.gallery import GalleryRequest, prepare_folder, write_gallery
from producer.gallery.thumbnails import Thumbnails
from tests.journeys.cli_runner import CliRunner

CALL = re.compile(r'captionmill\.receive\("(\w+)",(\d+),(.*)\);\n', re.DOTALL)


def read(folder: Path, name: str) -> list[Any]:
    """Return the values of all scripts of a name, as the page receives them."""
    found = {}
    for path in folder.glob(f"data-*/{name}*.js"):
        call = CALL.fullmatch(path.read_text(encoding="ascii"))
        assert call is not None
        assert call[1] == name
        found[int(call[2])] = json.loads(call[3])
    return [found[number] for number in sorted(found)]


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of a gallery by the name of their file."""
    (meta,) = read(folder, "meta")
    all_rows = [dict(zip(meta["fields"], values, strict=True)) for part in read(folder, "list") for values in part]
    assert len(all_rows) == meta["count"]
    return {row["name"]: row for row in all_rows}


def test_each_file_has_its_caption_and_a_small_and_a_large_image(
    cli: CliRunner, readable_store: Database, photo_folder: Path, tmp_path: Path
) -> None:
    readable_store.close()
    out = cli.run("producer", "gallery", "-o", str(tmp_path / "gallery")).out
    assert "10 images" in out
    found = rows(tmp_path / "gallery")
    assert len(found) == 10
    for row in found.values():
        assert row["caption"].startswith("two dogs run past image")
        assert (row["status"], row["source"], row["jobs"]) == ("captioned", "machine", [1])
        for kind, side in (("small", 320), ("large", 800)):
            with (
                Image.open(tmp_path / "gallery" / kind / row["thumbnail"]) as image,
                Image.open(photo_folder / row["name"]) as original,
            ):
                assert image.format == "JPEG"
                assert max(image.size) <= side
                assert abs(image.width / image.height - original.width / original.height) < 0.02
    index = (tmp_path / "gallery" / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]+)"', index)
    assert all((tmp_path / "gallery" / name).is_file() for name in named)
    assert "default-src 'none'" in index


def test_names_and_captions_never_become_markup_or_code(
    cli: CliRunner, readable_store: Database, photo_folder: Path, tmp_path: Path
) -> None:
    evil = '</script><img src=x onerror=alert(1)>\u2028"\\'
    for row in export_rows(readable_store):
        edits.correct(readable_store, row.file_id, evil)
    readable_store.close()
    cli.run("producer", "gallery", "-o", str(tmp_path / "gallery"), "--title", evil)
    assert {row["caption"] for row in rows(tmp_path / "gallery").values()} == {evil}
    assert "alert(1)" not in (tmp_path / "gallery" / "index.html").read_text()
    scripts = [*(tmp_path / "gallery").glob("page-*/*.js")]
    assert scripts
    for script in scripts:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script.read_text())


def test_a_second_gallery_in_the_folder_reads_only_what_is_new_and_forgets_what_is_gone(
    cli: CliRunner, readable_store: Database, photo_folder: Path, tmp_path: Path
) -> None:
    readable_store.close()
    folder = tmp_path / "gallery"
    cli.run("producer", "gallery", "-o", str(folder))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/??/*.jpg")}
    shutil.rmtree(photo_folder)  # a second gallery needs no file that it has a thumbnail of
    cli.run("producer", "gallery", "-o", str(folder), "--where", '"image 3" OR "image 4"')
    assert len(rows(folder)) == 2
    after = {path: path.stat().st_mtime_ns for path in folder.glob("*/??/*.jpg")}
    assert len(after) == 4
    assert after.items() <= before.items()
    assert len([*folder.glob("data-*")]) == len([*folder.glob("page-*")]) == 1


def test_an_image_that_has_changed_since_its_caption_has_no_thumbnail(
    cli: CliRunner, readable_store: Database, photo_folder: Path, tmp_path: Path
) -> None:
    readable_store.close()
    shutil.copyfile(photo_folder / "china.jpg", photo_folder / "coffee.png")
    os.mkfifo(photo_folder / "pipe")
    (photo_folder / "chelsea.png").unlink()
    (photo_folder / "chelsea.png").symlink_to("pipe")
    done = cli.run("producer", "gallery", "-o", str(tmp_path / "gallery"))
    assert "2 captioned images have no thumbnail" in done.out
    found = rows(tmp_path / "gallery")
    assert (found["coffee.png"]["thumbnail"], found["chelsea.png"]["thumbnail"]) == ("", "")
    assert found["coffee.png"]["caption"]


def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(cli: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    done = cli.run("producer", "gallery", "-o", str(tmp_path / "mine"))
    assert done.code == 2
    assert "has other files and is no gallery: name a new or an empty folder" in done.err
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index.html"]


def test_the_large_view_has_the_confidence_of_each_word_and_where_the_model_looked(
    cli: CliRunner, readable_store: Database, tmp_path: Path
) -> None:
    with readable_store.writing() as connection:
        caption_id = connection.execute(sa.select(Caption.id).where(Caption.text.like("%image 0"))).scalar_one()
        connection.execute(sa.insert(Attention).values(caption_id=caption_id, weights=bytes(range(6 * 4))))
        logps = [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.1]
        connection.execute(sa.update(Caption).where(Caption.id == caption_id).values(word_log_probabilities=logps))
    readable_store.close()
    cli.run("producer", "gallery", "-o", str(tmp_path / "gallery"))
    (all_details,) = read(tmp_path / "gallery", "details")
    (caption,) = next(each for each in all_details if each["captions"][0]["attention"])["captions"]
    assert [word for word, _ in caption["words"]] == caption["text"].split()
    assert all(0 <= confidence <= 100 for _, confidence in caption["words"])
    assert caption["attention"] == {
        "side": 2,
        "words": ["AAECAw==", "BAUGBw==", "CAkKCw==", "DA0ODw==", "EBESEw==", "FBUWFw=="],
    }


def test_a_gallery_that_ends_half_way_leaves_the_older_one(
    settings: Settings, readable_store: Database, tmp_path: Path
) -> None:
    folder = tmp_path / "gallery"
    prepare_folder(folder)
    pool = DecodePool(1, 320, Limits(), 60.0, options=Options(keep_aspect=True))
    thumbnails = Thumbnails(folder, pool, 0, ContentReader(settings))
    request = GalleryRequest(folder, "captions", {}, "2026-01-01T00:00:00Z")

    def items() -> Iterator[DetailedFile]:
        return details.with_details(readable_store, export_rows(readable_store))

    def cut() -> Iterator[DetailedFile]:
        yield next(items())
        raise OSError("no space left on device")

    try:
        write_gallery(request, items(), thumbnails, lambda _: None)
        index = (folder / "index.html").read_text()
        with pytest.raises(OSError, match="no space"):
            write_gallery(request, cut(), thumbnails, lambda _: None)
        assert (folder / "index.html").read_text() == index
        assert all((folder / name).is_file() for name in re.findall(r'(?:src|href)="([^"]+)"', index))
        write_gallery(request, items(), thumbnails, lambda _: None)
        assert len([*folder.glob("data-*")]) == 1
    finally:
        pool.close()
