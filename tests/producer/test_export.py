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
from producer.export import FORMATS, export, spreadsheet_safe, write_csv_table
from tests.support.texts import TEXTS

ROW = FileRow(
    "/a.jpg", b"/a.jpg", "5e", "a dog", 0.5, "m", "machine", 640, 480, "captioned", None, "2026-01-01T00:00:00Z", None
)
SLOW_TO_DRAW = settings(suppress_health_check=[HealthCheck.too_slow])
CELLS = TEXTS | st.none()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_all_rows_and_returns_their_number(name: str, tmp_path: Path) -> None:
    output = tmp_path / f"captions.{name}"
    assert export([ROW, ROW], name, str(output)) == 2
    text = output.read_text()
    assert text.count("a dog") == 2
    assert all(field in text for field in EXPORT_FIELDS)
    assert export([], name, str(output)) == 0


def test_the_fields_of_an_export_are_fixed() -> None:
    assert EXPORT_FIELDS == (
        "path", "sha256", "caption", "confidence", "model", "width", "height", "status", "error", "captioned_at"
    )  # fmt: skip
    assert tuple(ROW.as_export()) == (*EXPORT_FIELDS, "unlike")


def test_the_mark_of_unlike_images_is_the_last_column_and_a_word_in_csv(tmp_path: Path) -> None:
    rows = [replace(ROW, unlike=value) for value in (True, False, None)]
    export(rows, "csv", str(tmp_path / "x.csv"))
    header, *lines = csv.reader((tmp_path / "x.csv").read_text().splitlines())
    assert header == [*EXPORT_FIELDS, "path_b64", "unlike"]
    assert [line[-1] for line in lines] == ["yes", "no", ""]
    export(rows, "jsonl", str(tmp_path / "x.jsonl"))
    assert [json.loads(line)["unlike"] for line in (tmp_path / "x.jsonl").read_text().splitlines()] == [
        True,
        False,
        None,
    ]


def test_csv_prefixes_cells_that_a_spreadsheet_would_run_and_json_does_not(tmp_path: Path) -> None:
    row = FileRow("=cmd()", b"=cmd()", None, "@SUM(A1)", 0.5, "m", "machine", 1, 1, "captioned", None, None, None)
    export([row], "csv", str(tmp_path / "x.csv"))
    assert (tmp_path / "x.csv").read_text().splitlines()[1].startswith("'=cmd(),,'@SUM(A1),0.5")
    export([row], "jsonl", str(tmp_path / "x.jsonl"))
    assert json.loads((tmp_path / "x.jsonl").read_text())["path"] == "=cmd()"


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
        export(failing_rows(), "jsonl", str(output))
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_an_export_replaces_the_target_of_a_link_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    export([ROW], "jsonl", str(tmp_path / "link.jsonl"))
    assert (tmp_path / "link.jsonl").is_symlink()
    assert json.loads((tmp_path / "real.jsonl").read_text())["caption"] == "a dog"


def test_a_private_file_stays_private_and_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    output = tmp_path / ("l" * 249 + ".jsonl")
    output.touch(mode=0o600)
    export([ROW], "jsonl", str(output))
    assert output.stat().st_mode & 0o777 == 0o600
    assert output.stat().st_size > 0


@pytest.mark.parametrize("output", ["", "/no/such/folder/x", "/dev/full", "/"])
def test_an_output_that_cannot_be_written_is_a_usage_error(output: str) -> None:
    with pytest.raises(UsageError, match=rf"cannot write to {output}: [A-Z]|-o needs the name of a file"):
        export([ROW], "jsonl", output)
