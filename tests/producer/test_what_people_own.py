"""What a person wrote or owns is never lost, replaced or mislabelled: not by exports, imports, undos or their order."""

import csv
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import UsageError
from captioning.store import edits, history
from captioning.store.captions import Selection, export_rows
from captioning.store.database import Database
from producer.export.forms import OnExisting, TextForm
from producer.export.sidecars import SidecarExport, undo_export
from producer.export.tables import from_spreadsheet, spreadsheet_safe
from producer.export.text import TextOptions
from scripts.sample_images import copy_samples
from tests.journeys.cli_runner import CliResult, CliRunner

MINE = b"meine eigenen W\xc3\xb6rter\r\n"
pytestmark = pytest.mark.usefixtures("captioned_store")
Export = Callable[..., CliResult]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    copy_samples(tmp_path / "photographs")
    return tmp_path / "photographs"


@pytest.fixture
def export(cli: CliRunner) -> Export:
    """Return a function that exports text files beside the photographs."""
    return lambda *words: cli.producer("export", "--beside", "--format", "txt", *words)


def texts(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*.txt")}


# -- files beside images --


def test_a_file_that_a_person_put_back_is_the_persons_again(export: Export, photographs: Path) -> None:
    (photographs / "china.txt").write_bytes(MINE)
    assert export("--on-existing", "overwrite").code == 0
    (photographs / "china.txt").write_bytes(MINE)
    assert "1 file not written: it is somebody else's" in export().err
    assert (photographs / "china.txt").read_bytes() == MINE


@pytest.mark.parametrize("gone", ["disk", "file"])
def test_the_words_of_a_person_outlive_an_export_while_they_are_not_there(
    gone: str, export: Export, cli: CliRunner, photographs: Path
) -> None:
    (photographs / "china.txt").write_bytes(MINE)
    export("--on-existing", "overwrite")
    if gone == "disk":
        photographs.rename(photographs.with_name("away"))
        photographs.mkdir()
        assert "10 files not written: its image is not there" in export().err
        assert list(photographs.iterdir()) == []
        assert "10 files not written: its image is not there" in cli.producer("export", "--undo").err
        photographs.rmdir()
        photographs.with_name("away").rename(photographs)
    else:
        (photographs / "china.txt").unlink()
        assert export().code == 0
        cli.producer("export", "--undo")  # of the second export; then of the first one
    assert cli.producer("export", "--undo").code == 0
    assert texts(photographs) == {"china.txt": MINE}


def test_an_undo_that_the_system_refuses_can_be_repeated(
    export: Export, cli: CliRunner, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photographs / "china.txt").write_bytes(MINE)
    export("--on-existing", "append")
    rename, unlink = os.rename, os.unlink

    def refused_for(change: Callable[..., None]) -> Callable[..., None]:
        def refuse(*names: object, **options: object) -> None:
            if str(names[-1]).endswith(".txt'"):  # bytes
                raise PermissionError(13, "Permission denied")
            change(*names, **options)

        return refuse

    monkeypatch.setattr(os, "rename", refused_for(rename))
    monkeypatch.setattr(os, "unlink", refused_for(unlink))
    refused = cli.producer("export", "--undo")
    assert (refused.code, "10 files not written: Permission denied" in refused.err) == (1, True), refused
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "unlink", unlink)
    assert cli.producer("export", "--undo").code == 0
    assert texts(photographs) == {"china.txt": MINE}


def test_undo_takes_back_captions_and_never_an_export(export: Export, cli: CliRunner, photographs: Path) -> None:
    (photographs / "china.txt").write_bytes(MINE)
    cli.producer("correct", str(photographs / "coffee.png"), "my cup")
    export("--on-existing", "overwrite")
    assert cli.producer("undo").out.startswith("change 1 (correct)")
    refused = cli.producer("undo", "2")
    assert (refused.code, "`producer export --undo` puts them back" in refused.err) == (2, True)
    assert cli.producer("export", "--undo").code == 0
    assert texts(photographs) == {"china.txt": MINE}


def test_a_person_who_takes_an_edit_back_can_still_undo(export: Export, cli: CliRunner, photographs: Path) -> None:
    (photographs / "china.txt").write_bytes(MINE)
    export("--on-existing", "append")
    written = (photographs / "china.txt").read_bytes()
    (photographs / "china.txt").write_bytes(b"edited")
    assert "somebody changed it after the export" in cli.producer("export", "--undo").err
    assert texts(photographs) == {"china.txt": b"edited"}
    (photographs / "china.txt").write_bytes(written)
    cli.producer("export", "--undo")
    assert texts(photographs) == {"china.txt": MINE}


def test_two_exports_at_once_leave_every_file_undoable(captioned_store: Database, photographs: Path) -> None:
    images = [file.name for file in photographs.iterdir()]
    for name in images:
        (photographs / name).with_suffix(".txt").write_bytes(MINE)
    before = texts(photographs)

    def run(prefix: str) -> None:
        text = TextOptions(prefix).apply
        writer = SidecarExport(captioned_store, TextForm("txt"), text, OnExisting.APPEND, None)
        writer.write(export_rows(captioned_store, Selection(fitting=True)), {}, lambda n: None)

    threads = [threading.Thread(target=run, args=(prefix,)) for prefix in ("AAA ", "BBB ")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(data.startswith(MINE) for data in texts(photographs).values())
    from captioning.store.sidecars import last_export

    while texts(photographs) != before:
        undo_export(captioned_store, last_export(captioned_store).change)


@pytest.mark.parametrize("how", ["append", "prepend"])
@pytest.mark.parametrize(
    "words", [b"  indented\n\n", b"\xef\xbb\xbfmarked\r\n", "Größe".encode(), b"one\r\ntwo", b"\n\nlate"]
)
def test_a_caption_is_added_and_no_byte_of_a_person_changes(
    words: bytes, how: str, export: Export, photographs: Path
) -> None:
    (photographs / "china.txt").write_bytes(words)
    export("--on-existing", how)
    data = (photographs / "china.txt").read_bytes()
    added = data.removeprefix(words) if how == "append" else data.removesuffix(words.removeprefix(b"\xef\xbb\xbf"))
    assert added.removeprefix(b"\xef\xbb\xbf").decode().strip().startswith("two dogs")
    export("--on-existing", how)
    assert (photographs / "china.txt").read_bytes() == data


@pytest.mark.parametrize("words", ["Größe".encode("latin-1"), "words".encode("utf-16"), "words".encode("utf-16-be")])
def test_a_text_that_is_not_in_utf_8_is_left_alone(words: bytes, export: Export, photographs: Path) -> None:
    (photographs / "china.txt").write_bytes(words)
    assert "it is not in UTF-8" in export("--on-existing", "append").err
    assert (photographs / "china.txt").read_bytes() == words


def test_a_file_keeps_owner_permissions_and_by_an_undo_its_time(
    export: Export, cli: CliRunner, photographs: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    file = photographs / "china.txt"
    file.write_bytes(MINE)
    file.chmod(0o640)
    os.chown(file, 1234, 1234)
    os.utime(file, ns=(1, 1_000_000_007))
    export("--on-existing", "append")
    assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (1234, 1234, 0o640)
    cli.producer("export", "--undo")
    assert (file.stat().st_uid, file.stat().st_mtime_ns, file.read_bytes()) == (1234, 1_000_000_007, MINE)


def test_a_read_only_file_is_only_overwritten(export: Export, photographs: Path) -> None:
    (photographs / "china.txt").write_bytes(MINE)
    (photographs / "china.txt").chmod(0o440)
    assert "it is read-only" in export("--on-existing", "append").err
    assert (photographs / "china.txt").read_bytes() == MINE


def test_a_root_that_became_a_link_is_not_followed(export: Export, photographs: Path) -> None:
    real = photographs.with_name("real")
    photographs.rename(real)
    photographs.symlink_to(real)
    assert "10 files not written: a folder of its path is a symbolic link" in export().err
    assert texts(real) == {}


# -- which image a sidecar is of --


def test_an_image_that_changed_or_went_gets_no_caption_of_what_it_was(export: Export, photographs: Path) -> None:
    shutil.copyfile(photographs / "grass.png", photographs / "coffee.png")
    (photographs / "camera.png").unlink()
    done = export()
    assert "its image has changed since: submit the folder again" in done.err
    assert "its image is not there" in done.err
    assert len(texts(photographs)) == 8
    assert not {"coffee.txt", "camera.txt"} & texts(photographs).keys()


def test_a_filter_of_quality_does_not_decide_which_image_a_sidecar_is_of(
    captioned_store: Database, export: Export, photographs: Path
) -> None:
    with captioned_store.writing() as connection:
        connection.exec_driver_sql("UPDATE files SET path_bytes = CAST('coffee.jpg' AS BLOB) WHERE path = 'rocket.jpg'")
        connection.exec_driver_sql("UPDATE captions SET confidence = 0.1 WHERE text LIKE '%image 6'")
    refused = export("--min-confidence", "0.5")
    assert (refused.code, "would both have" in refused.err) == (2, True)
    assert texts(photographs) == {}


def test_the_sidecar_of_one_image_is_not_renewed_for_another(
    captioned_store: Database, export: Export, photographs: Path
) -> None:
    export()
    before = texts(photographs)
    (photographs / "rocket.jpg").rename(photographs / "coffee.jpg")
    with captioned_store.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE files SET path_bytes = CAST('coffee.jpg' AS BLOB), path = 'coffee.jpg' WHERE path = 'rocket.jpg'"
        )
    assert "it is the sidecar of another image" in export("--where", "path:coffee.jpg").err
    assert texts(photographs) == before
    (photographs / "coffee.png").unlink()  # it was converted
    assert "1 renewed" in export("--where", "path:coffee.jpg").err


def test_an_image_is_never_written_even_if_its_name_is_that_of_a_sidecar(cli: CliRunner, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    source = copy_samples(tmp_path / "more")[0]
    shutil.copyfile(source, folder / "solo.txt")
    shutil.copyfile(source, folder / "solo.png")
    before = source.read_bytes()
    cli.producer("submit", "--dry-run", str(folder / "solo.txt"))
    for name in ("photographs/china.jpg", "photographs/coffee.png"):
        for arguments in (["--format", "coco-results"], ["--format", "csv"], []):
            done = cli.producer("export", *arguments, "-o", str(tmp_path / name), "--on-existing", "overwrite")
            assert done.code == 2
    assert (folder / "solo.txt").read_bytes() == before
    assert (tmp_path / "photographs" / "china.jpg").read_bytes()[:2] == b"\xff\xd8"


# -- files at -o --


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "metadata.jsonl"])
def test_a_file_of_a_person_is_replaced_only_when_the_person_says_so(
    name: str, cli: CliRunner, photographs: Path
) -> None:
    file, words = photographs / name, ["--format", "hf"] if name.startswith("meta") else []
    file.write_bytes(MINE)
    refused = cli.producer("export", "-o", str(file), *words)
    assert (refused.code, "somebody else wrote or changed it" in refused.err) == (2, True)
    assert file.read_bytes() == MINE
    assert cli.producer("export", "-o", str(file), *words, "--on-existing", "overwrite").code == 0
    assert cli.producer("export", "-o", str(file), *words).code == 0
    with file.open("ab") as edited:
        edited.write(b"\n")
    assert cli.producer("export", "-o", str(file), *words).code == 2


def test_words_around_a_caption_stand_beside_it_in_a_table_so_that_an_import_changes_nothing(
    cli: CliRunner, tmp_path: Path
) -> None:
    for name in ("c.csv", "c.jsonl"):
        file = tmp_path / name
        cli.producer("export", "-o", str(file), "--prefix", "photo of ")
        assert "photo of two dogs" in file.read_text()
        assert cli.producer("import", str(file), "--json").json == {"rows": {"same": 10}, "written": 0}
    with (tmp_path / "c.csv").open() as lines:
        assert next(csv.reader(lines))[-2:] == ["text", "unlike"]


# -- imports --


def test_words_of_a_model_never_come_back_as_a_persons(export: Export, cli: CliRunner, photographs: Path) -> None:
    (photographs / "china.txt").write_bytes(MINE)
    export("--on-existing", "append", "--prefix", "photo of ")
    done = cli.producer("import", "--sidecars", "txt", "--as-human", "--json").json
    assert done == {"rows": {"ours": 9, "new": 1}, "written": 1}
    row = cli.producer("show", str(photographs / "china.jpg"), "--json").json
    assert (row["caption"], row["source"]) == (MINE.decode().strip(), "human")


def test_a_caption_that_was_added_to_xmp_does_not_come_back_with_the_words_of_a_person(
    cli: CliRunner, photographs: Path
) -> None:
    (photographs / "china.xmp").write_text(
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/" dc:description="Rex am Strand" dc:format="x"/></rdf:RDF>'
    )
    cli.producer("export", "--beside", "--format", "xmp", "--on-existing", "append")
    edited = (photographs / "china.xmp").read_text().replace('dc:format="x"', 'dc:format="image/jpeg"')
    (photographs / "china.xmp").write_text(edited)  # another program writes its fields: the file is not ours any more
    assert cli.producer("import", "--sidecars", "xmp", "--as-human", "--json").json["rows"] == {"new": 1, "ours": 9}
    assert cli.producer("show", str(photographs / "china.jpg"), "--json").json["caption"] == "Rex am Strand"


def test_rows_that_cannot_be_meant_are_an_error_or_are_counted(
    cli: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    table = photographs / "c.csv"
    table.write_text("path,caption\nchina.jpg,red, white and blue\n")
    assert "c.csv:2: more cells than the header has" in cli.producer("import", str(table)).err
    table.write_text("path,caption\nchina.jpg,first\nchina.jpg,second\nchina.jpg,first\n")
    assert cli.producer("import", str(table), "--json").json == {"rows": {"new": 2, "twice": 1}, "written": 2}
    assert cli.producer("show", str(photographs / "china.jpg"), "--json").json["caption"] == "first"
    table.write_bytes("path,caption\nchina.jpg,Größe\n".encode("latin-1"))
    assert "is not in UTF-8: save it as UTF-8" in cli.producer("import", str(table)).err


@given(st.text(st.sampled_from("'=+-@\t＝ab"), max_size=5) | st.text(max_size=20))
def test_a_cell_comes_back_from_a_spreadsheet_as_it_was(text: str) -> None:
    assert from_spreadsheet(spreadsheet_safe(text)) == text


# -- copies --


def test_an_undo_brings_back_the_earlier_words_on_every_copy(captioned_store: Database, photographs: Path) -> None:
    with captioned_store.writing() as connection:
        image = "SELECT image_id FROM files WHERE path = 'coffee.png'"
        connection.exec_driver_sql(f"UPDATE files SET image_id = ({image}) WHERE path = 'rocket.jpg'")
    rows = {Path(row.path).name: row for row in export_rows(captioned_store)}
    for words in ("first", "second"):
        edits.correct(captioned_store, rows["coffee.png"].file_id, words)
    from captioning.store.preferred import keep_captions_of_people

    with captioned_store.writing() as connection:
        keep_captions_of_people(connection, [rows["rocket.jpg"].file_id])
        other = "SELECT image_id FROM files WHERE path = 'grass.png'"
        connection.exec_driver_sql(f"UPDATE files SET image_id = ({other}) WHERE path = 'rocket.jpg'")
    assert shown(captioned_store, "rocket.jpg") == "second"
    history.undo(captioned_store)
    assert shown(captioned_store, "coffee.png") == shown(captioned_store, "rocket.jpg") == "first"


def shown(db: Database, name: str) -> str | None:
    return next(row.caption for row in export_rows(db) if Path(row.path).name == name)


def test_a_caption_for_an_image_that_cannot_be_read_is_refused_with_the_reason(
    captioned_store: Database, photographs: Path
) -> None:
    with captioned_store.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE files SET image_id = NULL, failed_reason = 'truncated', failed_detail = 'cut short'"
            " WHERE path = 'coffee.png'"
        )
    row = next(row for row in export_rows(captioned_store) if row.path.endswith("coffee.png"))
    for change in (lambda: edits.correct(captioned_store, row.file_id, "x"),
                   lambda: edits.accept(captioned_store, [row.file_id])):  # fmt: skip
        with pytest.raises(UsageError, match="truncated: cut short"):
            change()
