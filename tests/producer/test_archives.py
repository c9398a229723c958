"""Images in archives are registered, captioned, shown, exported, missed and forgotten as files in folders are."""

import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from captioning.archives import ArchiveLimits
from captioning.settings import Settings
from captioning.store import captions
from captioning.store.database import Database
from captioning.values import DecodeOptions
from producer.sources import Access, Filters, ImageFinder, read_sources
from producer.submit import SubmitRequest, Submitted, submit
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import LSTM
from tests.support.archives import write_archive, write_zip

KINDS = ("a.zip", "a.tar", "a.tgz")
FILES = {"dogs/1.jpg": b"one", "2.jpg": b"two", "dogs/notes.txt": b"words", "dogs/3.png": b"three"}
IMAGES = ["dogs/1.jpg", "2.jpg", "dogs/3.png"]


@dataclass
class Report:
    """What a search reports."""

    warnings: list[str]
    paths: dict[str, str]

    def skipped(self, path: bytes, category: str) -> None:
        self.paths[os.fsdecode(path)] = category

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def find(*paths: Path, limits: ArchiveLimits | None = None, **filters: object) -> tuple[list[str], ImageFinder, Report]:
    report = Report([], {})
    sources = read_sources([os.fsencode(path) for path in paths])
    finder = ImageFinder(sources, Filters(**filters), report, Access(limits or ArchiveLimits()))  # type: ignore[arg-type]
    return [os.fsdecode(file.path) for file in finder], finder, report


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_archive_is_looked_into_and_its_other_members_are_counted(tmp_path: Path, kind: str) -> None:
    path = write_archive(tmp_path / kind, FILES)
    found, finder, report = find(path)
    assert found == [f"{path}!/{name}" for name in IMAGES]
    assert finder.skipped == {".txt file": 1}
    assert report.paths == {f"{path}!/dogs/notes.txt": ".txt file"}
    assert not report.warnings


def test_archives_in_folders_are_looked_into_on_request_only(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", FILES)
    (tmp_path / "b.jpg").write_bytes(b"x")
    assert find(tmp_path)[0] == [f"{tmp_path}/b.jpg"]
    assert find(tmp_path, archives=True)[0] == [*(f"{path}!/{name}" for name in IMAGES), f"{tmp_path}/b.jpg"]


def test_an_archive_can_be_excluded_like_a_folder(tmp_path: Path) -> None:
    write_archive(tmp_path / "backup.zip", FILES)
    path = write_archive(tmp_path / "a.tar", FILES)
    found, finder, _ = find(tmp_path, archives=True, exclude=("backup.zip",), include=("*.png",))
    assert found == [f"{path}!/dogs/3.png"]
    assert not finder.unmatched


def test_patterns_apply_to_the_paths_of_members(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tar", FILES)
    found, finder, _ = find(path, exclude=("dogs", "cats"))
    assert found == [f"{path}!/2.jpg"]
    assert finder.skipped == {"filtered": 2, ".txt file": 1}
    assert finder.unmatched == ("--exclude 'cats' matched no image and no folder",)


def test_what_other_programs_put_into_archives_is_skipped_by_category(tmp_path: Path) -> None:
    names = ("a.jpg", "__MACOSX/._a.jpg", "__MACOSX/b.jpg", "._c.jpg", ".git/d.jpg", "inner.zip", "e.mov")
    found, finder, _ = find(write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x")))
    assert found == [f"{tmp_path}/a.zip!/a.jpg"]
    assert finder.skipped == {"hidden": 3, "system folder": 1, "nested archive": 1, ".mov video": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_leads_out_of_its_archive_is_refused_with_one_line(tmp_path: Path, kind: str) -> None:
    path = write_archive(tmp_path / kind, {"../a.jpg": b"x", "../b.jpg": b"x", "c.jpg": b"x"})
    found, finder, report = find(path)
    assert found == [f"{path}!/c.jpg"]
    assert report.warnings == [f"{path}!/../a.jpg is a member with an unsafe path and is not taken"]
    assert finder.skipped == {"member with an unsafe path": 2}


def test_a_bomb_and_a_damaged_archive_are_refused_with_one_line_each(tmp_path: Path) -> None:
    good = write_archive(tmp_path / "good.zip", FILES)
    (tmp_path / "damaged.tar").write_bytes(b"x" * 1000)
    many = write_archive(tmp_path / "many.tgz", {f"{i}.jpg": b"" for i in range(50)})
    found, finder, report = find(tmp_path / "damaged.tar", good, many, limits=ArchiveLimits(members=10))
    assert len(found) == len(IMAGES)
    assert finder.refused == finder.skipped["archive that is refused"] == 2
    assert report.warnings[0].startswith(f"{tmp_path}/damaged.tar: no tar file, or a damaged one")
    assert report.warnings[1] == f"{many}: more than 10 members; the limit is CAPTIONING_MAX_ARCHIVE_MEMBERS"


def test_an_archive_beside_a_folder_with_the_paths_of_its_members_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", FILES)
    (tmp_path / "a.zip!").mkdir()
    assert "rename it" in find(path)[2].warnings[0]


# -- with a store --


@pytest.fixture
def submit_archive(store: Database, settings: Settings) -> Callable[..., Submitted]:
    def run(*paths: Path, **options: bool) -> Submitted:
        sources = read_sources([os.fsencode(path) for path in paths])
        return submit(
            store, settings, SubmitRequest(sources, Filters(), LSTM, DecodeOptions(), **options), lambda _: None
        )

    return run


def paths_in(store: Database, *, missing: bool = False) -> list[str]:
    rows = captions.files_below(store, b"/", 100, missing=missing)
    return sorted(row.path.rpartition("/a.")[2] for row in rows)


def queued(store: Database) -> list[str]:
    """Return the paths of all items, in the order in which workers read them."""
    query = "SELECT f.path FROM items i JOIN files f ON f.id = i.file_id ORDER BY i.id"
    with store.reading() as connection:
        return list(connection.exec_driver_sql(query).scalars())


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_queued_in_their_order_below_the_root_of_the_archive(
    tmp_path: Path, store: Database, submit_archive: Callable[..., Submitted], kind: str
) -> None:
    names = {f"{i}.jpg": bytes(i) for i in np.random.default_rng(0).permutation(40)}
    submit_archive(write_archive(tmp_path / kind, names))
    assert queued(store) == [f"{kind}!/{name}" for name in names]


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_are_gone_and_archives_that_are_gone_are_marked_as_missing(
    tmp_path: Path, store: Database, submit_archive: Callable[..., Submitted], kind: str
) -> None:
    (tmp_path / "keep.jpg").write_bytes(b"x")
    path = write_archive(tmp_path / kind, FILES)
    submit_archive(path)
    write_archive(path, {name: data for name, data in FILES.items() if name != "2.jpg"})
    os.utime(path, ns=(0, 1))
    assert submit_archive(path).absent.missing == 1
    assert paths_in(store, missing=True) == [f"{kind[2:]}!/2.jpg"]
    path.unlink()
    assert submit_archive(tmp_path).absent.missing == 2


def test_members_that_filters_leave_out_or_a_folder_walk_does_not_look_for_are_not_missing(
    tmp_path: Path, store: Database, settings: Settings, submit_archive: Callable[..., Submitted]
) -> None:
    (tmp_path / "keep.jpg").write_bytes(b"x")
    path = write_archive(tmp_path / "a.zip", FILES)
    submit_archive(path)
    assert submit_archive(tmp_path).absent.missing == 0
    os.utime(path, ns=(0, 1))  # now the archive itself must be asked
    assert submit_archive(tmp_path).absent.missing == 0
    request = SubmitRequest(read_sources([os.fsencode(path)]), Filters(include=("2.jpg",)), LSTM, DecodeOptions())
    assert submit(store, settings, request, lambda _: None).absent.missing == 0


def test_an_archive_that_is_not_there_any_more_marks_its_members_when_it_is_named(
    cli: CliRunner, tmp_path: Path, store: Database, submit_archive: Callable[..., Submitted]
) -> None:
    path = write_archive(tmp_path / "a.tgz", FILES)
    submit_archive(path)
    path.unlink()
    result = cli.producer("submit", str(path))
    assert result.code == 2
    assert "3 files that are gone from there are marked as missing" in result.err


# -- on the command line --


def test_a_submit_of_a_bomb_alone_ends_with_one_line_and_2_and_among_others_with_3(
    cli: CliRunner, tmp_path: Path
) -> None:
    cli.environment["CAPTIONING_MAX_ARCHIVE_MEMBERS"] = "2"
    many = write_archive(tmp_path / "many.zip", {f"{i}.jpg": b"x" for i in range(3)})
    result = cli.producer("submit", str(many), "--dry-run")
    assert result.code == 2
    assert f"producer: {many}: more than 2 members; the limit is CAPTIONING_MAX_ARCHIVE_MEMBERS\n" in result.err
    good = write_archive(tmp_path / "good.zip", {"a.jpg": b"x"})
    result = cli.producer("submit", str(many), str(good), "--dry-run")
    assert result.code == 3
    assert "1 image would be submitted" in result.out


def test_a_member_cannot_be_named_alone_and_the_message_says_what_can(cli: CliRunner, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", FILES)
    result = cli.producer("submit", f"{path}!/2.jpg")
    assert result.code == 2
    assert f"is in an archive: submit {path}, with --include" in result.err


def test_hostile_names_of_members_do_not_reach_the_terminal(cli: CliRunner, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../\x1b[31mred\n.jpg", "ok.jpg"):
            archive.addfile(tarfile.TarInfo(name))
    result = cli.producer("submit", str(tmp_path / "a.tar"), "--dry-run", "--list-skipped")
    assert "\x1b" not in result.out + result.err
    assert "unsafe path" in result.out


# -- data sets --


def test_shards_are_taken_without_the_texts_beside_the_images(tmp_path: Path) -> None:
    for shard in range(3):
        files = {f"{shard}{i}.{ending}": b"x" for i in range(2) for ending in ("jpg", "txt", "json", "cls")}
        write_archive(tmp_path / f"shard-{shard:03d}.tar", files)
    found, finder, report = find(tmp_path / "shard-{000..002}.tar")
    assert len(found) == 6
    assert finder.skipped == {".txt file": 6, ".json file": 6, ".cls file": 6}
    assert not report.warnings


def test_a_folder_of_hugging_face_is_a_folder_and_its_captions_can_be_imported(
    cli: CliRunner, captioned_store: Database, photographs: Path, tmp_path: Path
) -> None:
    names = sorted(path.name for path in photographs.iterdir())[:2]
    folder = tmp_path / "train"
    folder.mkdir()
    metadata = folder / "metadata.jsonl"
    lines = ({"file_name": os.path.relpath(photographs / name, folder), "text": f"of {name}"} for name in names)
    metadata.write_text("\n".join(map(json.dumps, lines)))
    assert find(folder)[1].skipped == {".jsonl file": 1}
    assert cli.producer("import", str(metadata)).code == 0
    rows = [row for row in captions.export_rows(captioned_store, captions.Selection()) if row.source == "imported"]
    assert sorted(row.caption or "" for row in rows) == [f"of {name}" for name in names]
