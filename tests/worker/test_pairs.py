"""A RAW file and the video of a Live Photo share the caption of the image of the same name beside them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from captioning.settings import read_settings
from captioning.store import edits, files
from captioning.store.captions import FileRow, Selection, export_rows
from captioning.store.forget import forget, scope_of_path
from captioning.values import DecodeOptions
from producer.export.forms import OnExisting, XmpForm
from producer.export.sidecars import SidecarExport
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest, Submitted, submit
from tests.store.helpers import LSTM
from tests.worker.conftest import LocalWorker, png

RAW = b"what a sensor saw"
Submit = Callable[..., Submitted]


@pytest.fixture
def caption_folder(local: LocalWorker) -> Submit:
    """Return a function that submits the folder and lets a worker process it."""

    def run(*names: str, **filters: tuple[str, ...]) -> Submitted:
        settings = read_settings(data_dir=local.folder.parent)
        paths = [os.fsencode(local.folder / name) for name in names] or [os.fsencode(local.folder)]
        request = SubmitRequest(read_sources(paths), Filters(**filters), LSTM, DecodeOptions())
        done = submit(local.db, settings, request, lambda _: None)
        local.process_all()
        return done

    return run


def shown(local: LocalWorker) -> dict[str, FileRow]:
    return {Path(row.path).name: row for row in export_rows(local.db)}


def file_id(local: LocalWorker, name: str) -> int:
    found = files.find_file(local.db, os.fsencode(local.folder / name))
    assert found is not None
    return found


def test_the_files_of_one_photograph_share_a_caption_and_the_model_runs_once(
    local: LocalWorker, caption_folder: Submit
) -> None:
    local.write({"1.CR3": RAW, "1.JPG": png(1), "2.heic": png(2), "2.MOV": b"film", "3.mov": b"film", "4.nef": png(4)})
    local.write({"a/1.dng": RAW, "b/1.jpg": png(5)})  # in other folders: not pairs
    done = caption_folder()
    assert done.queued == 7
    assert done.skipped == {".mov video": 1}
    rows = shown(local)
    assert {name: row.status for name, row in rows.items()} == {
        "1.CR3": "captioned", "1.JPG": "captioned", "2.heic": "captioned", "2.MOV": "captioned", "4.nef": "captioned",
        "1.dng": "failed", "1.jpg": "captioned",
    }  # fmt: skip
    assert sum(local.captioner.batches) == 4
    assert rows["1.CR3"].partner == str(local.folder / "1.JPG")
    assert (rows["1.CR3"].sha256, rows["1.CR3"].width) == (None, None)  # nobody has read them
    assert rows["1.JPG"].partner is rows["4.nef"].partner is None
    assert local.row("SELECT count(*) FROM caption_export WHERE sha256 IS NULL AND caption IS NOT NULL") == (2,)
    assert [Path(row.path).suffix for row in export_rows(local.db, Selection(partners=False))].count(".CR3") == 0
    assert caption_folder().queued == 0


@pytest.mark.parametrize("corrected", ["1.raf", "1.jpg"])
def test_a_correction_of_one_file_holds_for_the_other(
    corrected: str, local: LocalWorker, caption_folder: Submit
) -> None:
    local.write({"1.raf": RAW, "1.jpg": png(1)})
    caption_folder()
    edits.correct(local.db, file_id(local, corrected), "my words")
    assert {row.caption for row in export_rows(local.db)} == {"my words"}
    assert caption_folder().queued == 0


def test_a_caption_stays_with_the_raw_file_when_the_jpeg_is_deleted_and_forgotten(
    local: LocalWorker, caption_folder: Submit
) -> None:
    local.write({"1.arw": RAW, "1.jpg": png(1)})
    caption_folder()
    edits.correct(local.db, file_id(local, "1.jpg"), "my words")
    (local.folder / "1.jpg").unlink()
    assert caption_folder().queued == 0
    forget(local.db, scope_of_path(local.db, os.fsencode(local.folder / "1.jpg")))
    assert caption_folder().queued == 0
    assert {name: row.caption for name, row in shown(local).items()} == {"1.arw": "my words"}


def test_the_raw_file_follows_its_jpeg_when_that_is_edited(local: LocalWorker, caption_folder: Submit) -> None:
    local.write({"1.orf": RAW, "1.jpg": png(1)})
    caption_folder()
    images = "SELECT count(DISTINCT image_id), min(image_id) FROM files"
    before = local.row(images)
    local.write({"1.jpg": png(2) + b"longer"})
    assert caption_folder().queued == 2
    after = local.row(images)
    assert (before[0], after[0]) == (1, 1)
    assert before[1] != after[1]


def test_a_raw_file_that_had_a_caption_of_its_own_joins_the_jpeg_that_appears_beside_it(
    local: LocalWorker, caption_folder: Submit
) -> None:
    local.write({"1.dng": png(1)})
    caption_folder()
    edits.correct(local.db, file_id(local, "1.dng"), "my words for the raw file")
    local.write({"1.jpg": png(2)})
    caption_folder()
    assert {name: row.caption for name, row in shown(local).items()} == {
        "1.dng": "my words for the raw file", "1.jpg": "a dog runs",
    }  # fmt: skip
    assert shown(local)["1.dng"].partner is not None


def test_a_raw_file_is_captioned_itself_when_its_jpeg_is_damaged_left_out_or_not_named(
    local: LocalWorker, caption_folder: Submit
) -> None:
    local.write(
        {"1.dng": png(1), "1.jpg": b"damaged", "2.dng": png(2), "2.jpg": png(20), "3.dng": png(3), "3.jpg": png(30)}
    )
    caption_folder("1.dng", "1.jpg")
    assert {row.status for row in export_rows(local.db)} == {"failed"}
    caption_folder("1.dng", "1.jpg")
    assert {name: row.status for name, row in shown(local).items()} == {"1.dng": "captioned", "1.jpg": "failed"}
    assert caption_folder("1.dng", "1.jpg").queued == 0
    caption_folder("2.dng")
    assert shown(local)["2.dng"].partner is None
    caption_folder(exclude=("*.jpg",))
    assert shown(local)["3.dng"].partner is None
    caption_folder()
    assert [shown(local)[name].partner is None for name in ("1.dng", "2.dng", "3.dng")] == [True, False, False]


def test_a_raw_file_whose_jpeg_is_gone_before_a_worker_came_is_captioned_by_the_next_submit(
    local: LocalWorker, caption_folder: Submit
) -> None:
    local.write({"1.dng": png(1), "1.jpg": png(2), "other.png": png(3)})
    process, local.process_all = local.process_all, lambda: None  # type: ignore[method-assign]
    caption_folder()
    (local.folder / "1.jpg").unlink()
    local.process_all = process  # type: ignore[method-assign]
    local.process_all()
    caption_folder()
    assert {name: row.status for name, row in shown(local).items()} == {"1.dng": "captioned", "other.png": "captioned"}


@pytest.mark.parametrize(("full", "written"), [(False, ["1.xmp"]), (True, ["1.cr2.xmp", "1.jpg.xmp"])])
def test_a_pair_has_one_sidecar_where_both_would_have_the_same(
    full: bool, written: list[str], local: LocalWorker, caption_folder: Submit
) -> None:
    local.write({"1.cr2": RAW, "1.jpg": png(1)})
    caption_folder()
    export = SidecarExport(local.db, XmpForm(full), lambda row: row.caption or "", OnExisting.SKIP, None)
    rows = list(export_rows(local.db, Selection(fitting=True)))
    export.require_one_name_each(rows)
    export.refuse_doubled(rows)
    assert export.write(iter(rows), {}, lambda _: None).new == len(written)
    assert sorted(path.name for path in local.folder.glob("*.xmp")) == written
