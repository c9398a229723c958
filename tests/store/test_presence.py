"""What of the store's files is marked as missing, and what is only counted."""

import os
import tempfile
from pathlib import Path

import pytest

from captioning.mounts import Mounts
from captioning.store import captions
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.presence import Absent, FileIdSet, mark_files_missing, mark_missing
from producer.submit import describe_absent, mark_gone
from tests.store.helpers import StoreDriver

MOUNT = Mounts().of_nearest(os.fsencode(tempfile.gettempdir()))


def found_files(*names: str, mount: str | None = MOUNT) -> list[FoundFile]:
    return [FoundFile(name.encode(), 100, 1, ctime_ns=1, mount=mount) for name in names]


def listed(db: Database) -> set[str]:
    return {Path(row.path).name for row in captions.export_rows(db)}


def test_a_deleted_file_is_missing_until_it_is_found_again(db: Database, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    driver = StoreDriver(db, folder)
    (tmp_path / "sub").mkdir()
    for i in range(3):
        (tmp_path / f"{i}.jpg").touch()
    registered = driver.register(driver.open_job(), found_files("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"))
    seen = FileIdSet()
    for file_id in registered.file_ids[:2]:
        seen.add(file_id)
    assert mark_missing(db, [folder + b"/sub"], seen) == Absent()
    assert mark_missing(db, [folder], seen) == Absent(missing=2)  # the walk did not see the third file, but it exists
    assert mark_missing(db, [folder], seen) == Absent()
    assert len(list(captions.export_rows(db))) == 3
    driver.register(driver.open_job(), found_files("0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"))
    assert len(list(captions.export_rows(db))) == 5


@pytest.mark.parametrize("number", [1, 2, 150])
def test_all_named_folders_are_looked_through(db: Database, tmp_path: Path, number: int) -> None:
    driver = StoreDriver(db, os.fsencode(tmp_path))
    names = [f"{i}/{i}.jpg" for i in range(number + 1)]
    driver.register(driver.open_job(), found_files(*names))
    folders = [os.fsencode(tmp_path / str(i)) for i in range(1, number + 1)]
    assert mark_missing(db, folders, FileIdSet()) == Absent(missing=number)
    assert listed(db) == {"0.jpg"}


def test_a_path_of_a_list_may_be_a_folder_that_is_gone_and_have_another_unicode_form(
    db: Database, tmp_path: Path
) -> None:
    driver = StoreDriver(db, os.fsencode(tmp_path))
    composed, decomposed = "\u00e9", "e\u0301"
    driver.register(driver.open_job(), found_files(f"{composed}/a.jpg", f"{composed}.jpg", "b.jpg", "c/d.jpg"))
    gone = [os.fsencode(tmp_path / name) for name in (decomposed, f"{decomposed}.jpg", "never", "b.jpg")]
    assert mark_gone(db, gone) == Absent(missing=3)
    assert listed(db) == {"d.jpg"}
    _, unknown = mark_files_missing(db, [os.fsencode(tmp_path / "b.jpg")])
    assert unknown == []  # so nothing below it is looked for, although it is marked already


def test_each_reason_for_which_a_file_is_not_found_has_its_sentence(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    driver = StoreDriver(db, os.fsencode(folder))
    folder.mkdir()
    found = found_files("gone.jpg")
    found += found_files("from-an-earlier-version.jpg", mount=None)
    found += found_files("1.jpg", "2.jpg", mount=r"/dev/sdb1 ext4 / /mnt/my\040disk")
    found += found_files("x" * 300 + ".jpg")
    driver.register(driver.open_job(), found)
    assert describe_absent(mark_missing(db, [os.fsencode(folder)], FileIdSet())) == [
        "1 file that is gone from there is marked as missing.",
        "2 files are not found, but the disk that was mounted at /mnt/my disk is not mounted there now: nothing is"
        " changed (`producer forget` removes them).",
        "1 file is not found, but no submit has recorded the disk since an upgrade: nothing is"
        " changed (`producer forget` removes them).",
        "1 file is not found, but the folder cannot be read (File name too long): nothing is changed (`producer"
        " forget` removes them).",
    ]
    assert "gone.jpg" not in listed(db)
    assert len(listed(db)) == 4
