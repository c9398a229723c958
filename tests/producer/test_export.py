"""Export: the fields of every format, values that are safe in a spreadsheet, and files that appear complete."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captioning.errors import UsageError
from captioning.store.captions import EXPORT_FIELDS, FileRow
from producer.export import FORMATS, Format, Target, WriteOptions, format_of
from producer.export.tables import spreadsheet_safe, write_csv, write_csv_table, write_jsonl, write_parquet
from producer.export.text import TextOptions
from tests.support.texts import TEXTS

ROW = FileRow(
    "/a.jpg", b"/a.jpg", "5e", "a dog", 0.5, "m", "machine", 640, 480, "captioned", None, "2026-01-01T00:00:00Z", None
)
SLOW_TO_DRAW = settings(suppress_health_check=[HealthCheck.too_slow])
CELLS = TEXTS | st.none()


FILES = {name: form for name, form in FORMATS.items() if form.target is Target.FILE}


@pytest.mark.parametrize("name", FILES)
def test_every_format_of_a_file_has_all_rows_and_returns_their_number(name: str, tmp_path: Path) -> None:
    output = str(tmp_path / "captions.x")
    row = replace(ROW, path=str(tmp_path / "a.jpg"), format="JPEG", file_id=1)
    assert written(FILES[name], [row, replace(row, file_id=2)], output) == 2
    data = Path(output).read_bytes()
    assert b"a dog" in data
    assert written(FILES[name], [row, replace(row, file_id=2)], output) == 2
    assert Path(output).read_bytes() == data
    assert written(FILES[name], [], output) == 0


def written(form: Format, rows: list[FileRow], output: str) -> int:
    assert form.write is not None
    return form.write(rows, output, TextOptions().apply, WriteOptions())


def test_the_fields_of_an_export_are_fixed() -> None:
    assert EXPORT_FIELDS == (
        "path", "sha256", "caption", "confidence", "model", "width", "height", "status", "error", "captioned_at"
    )  # fmt: skip
    later = ("source", "edited", "image_changed", "caption_digest", "unlike")
    assert tuple(ROW.as_export()) == (*EXPORT_FIELDS, *later)


def test_the_mark_of_unlike_images_is_the_last_column_and_a_word_in_csv(tmp_path: Path) -> None:
    rows = [replace(ROW, unlike=value) for value in (True, False, None)]
    write_csv(rows, str(tmp_path / "x.csv"))
    header, *lines = csv.reader((tmp_path / "x.csv").read_text().splitlines())
    assert header == [*EXPORT_FIELDS, "path_b64", "source", "edited", "image_changed", "caption_digest", "unlike"]
    assert [line[-1] for line in lines] == ["yes", "no", ""]
    write_jsonl(rows, str(tmp_path / "x.jsonl"))
    found = [json.loads(line)["unlike"] for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert found == [True, False, None]


def test_csv_prefixes_cells_that_a_spreadsheet_would_run_and_json_does_not(tmp_path: Path) -> None:
    row = FileRow("=cmd()", b"=cmd()", None, "@SUM(A1)", 0.5, "m", "machine", 1, 1, "captioned", None, None, None)
    write_csv([row], str(tmp_path / "x.csv"))
    assert (tmp_path / "x.csv").read_text().splitlines()[1].startswith("'=cmd(),,'@SUM(A1),0.5")
    write_jsonl([row], str(tmp_path / "x.jsonl"))
    assert json.loads((tmp_path / "x.jsonl").read_text())["path"] == "=cmd()"


def test_csv_for_excel_says_its_encoding(tmp_path: Path) -> None:
    write_csv([replace(ROW, caption="ein Müller")], str(tmp_path / "x.csv"), excel=True)
    assert (tmp_path / "x.csv").read_bytes().startswith(b"\xef\xbb\xbfpath,")
    assert "ein Müller" in (tmp_path / "x.csv").read_text(encoding="utf-8-sig")


def test_parquet_has_the_columns_of_the_table_with_their_types(tmp_path: Path) -> None:
    from pyarrow import parquet

    assert write_parquet([ROW, replace(ROW, caption=None, confidence=None)], str(tmp_path / "x.parquet")) == 2
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names[: len(EXPORT_FIELDS)] == list(EXPORT_FIELDS)
    assert table.column("caption").to_pylist() == ["a dog", None]
    assert str(table.schema.field("confidence").type) == "double"


@pytest.mark.parametrize(
    ("name", "output", "expected"),
    [
        (None, "-", "jsonl"), (None, "x.csv", "csv"), (None, "x.JSONL", "jsonl"), (None, "x.parquet", "parquet"),
        (None, "x.json", "coco"), ("csv", "-", "csv"), ("hf", "metadata.jsonl", "hf"), ("txt", "tree", "txt"),
        ("coco-results", "x.json", "coco-results"), ("csv", "/dev/stdout", "csv"),
        ("webdataset", "shards", "webdataset"),
    ],
)  # fmt: skip
def test_the_format_follows_the_ending_of_the_file(name: str | None, output: str, expected: str) -> None:
    assert format_of(name, output) == expected


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("csv", "x.jsonl", r"x\.jsonl is no name for csv: end its name with \.csv, or leave out --format"),
        ("parquet", "x.csv", r"x\.csv is no name for parquet"),
        ("txt", "x.csv", r"x\.csv is no name for txt: name a folder"),
        (None, "x.yaml", r"x\.yaml does not tell the format: add --format, or use one of \.jsonl"),
    ],
)
def test_a_file_whose_ending_is_that_of_another_format_is_refused(name: str | None, output: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        format_of(name, output)


def test_a_caption_gets_words_before_and_after_it_a_template_and_a_limit() -> None:
    row = replace(ROW, path="/photos/beach/a.b.jpg", caption="two dogs run on the beach")
    assert TextOptions("photo of ", ", 2024").apply(row) == "photo of two dogs run on the beach, 2024"
    assert TextOptions(max_words=2).apply(row) == "two dogs"
    assert (
        TextOptions(template="{stem}: {caption} ({folder}, {{x}})", max_words=1).apply(row) == "a.b: two (beach, {x})"
    )
    assert TextOptions("p ").apply(replace(row, caption="")) == ""


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{captoin}", "{captoin} is none of {caption}, {name}"),
        ("hello", "has no {caption}"),
        ("{caption} {", "a brace"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(template: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TextOptions(template=template)
    assert message in str(caught.value)


@SLOW_TO_DRAW
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=5))
def test_csv_reads_back_as_written_except_for_the_prefix_of_formulas(rows: list[list[str | None]]) -> None:
    file = io.StringIO(newline="")
    assert write_csv_table(("a", "b"), rows, file) == len(rows)
    file.seek(0)
    header, *back = csv.reader(file)
    assert header == ["a", "b"]
    assert back == [["" if value is None else spreadsheet_safe(value) for value in row] for row in rows]
    assert not any(value[0] in "=+-@\t\r\n\0＝＋－＠" for row in back for value in row if value)


@SLOW_TO_DRAW
@given(text=TEXTS)
def test_a_cell_changes_only_by_the_prefix_of_formulas(text: str) -> None:
    assert spreadsheet_safe(text) in (text, "'" + text)


def failing_rows() -> Iterator[FileRow]:
    yield ROW
    raise RuntimeError("the database went away")


def test_a_failed_export_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    output = tmp_path / "captions.jsonl"
    output.write_text("old")
    with pytest.raises(RuntimeError):
        write_jsonl(failing_rows(), str(output))
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_an_export_replaces_the_target_of_a_link_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    write_jsonl([ROW], str(tmp_path / "link.jsonl"))
    assert (tmp_path / "link.jsonl").is_symlink()
    assert json.loads((tmp_path / "real.jsonl").read_text())["caption"] == "a dog"


def test_a_private_file_stays_private_and_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    output = tmp_path / ("l" * 249 + ".jsonl")
    output.touch(mode=0o600)
    write_jsonl([ROW], str(output))
    assert output.stat().st_mode & 0o777 == 0o600
    assert output.stat().st_size > 0


@pytest.mark.parametrize("output", ["", "/no/such/folder/x", "/dev/full", "/"])
def test_an_output_that_cannot_be_written_is_a_usage_error(output: str) -> None:
    with pytest.raises(UsageError, match=rf"cannot write to {output}: [A-Z]|-o needs the name of a file"):
        write_jsonl([ROW], output)
