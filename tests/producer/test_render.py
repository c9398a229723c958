"""What is printed: numbers with the right nouns, one line per row in a pipe, nothing that a terminal obeys."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captioning.store.captions import FileRow
from captioning.store.jobs import Progress
from captioning.terminal import printable
from captioning.values import JobState
from producer import render, render_files, render_jobs
from producer.dry_run import DryRun
from tests.support.texts import TEXTS

DONE = Progress(
    job=1, name="photos", state="done", model="lstm", model_digest="5e" * 32, registered=True, priority=0,
    total=13, captioned=10, reused=2, failed=1, model_runs=10, known=3, skipped={"other file": 2, "hidden": 1},
    created_at=0.0, finished_at=1.0,
)  # fmt: skip
SLOW_TO_DRAW = settings(suppress_health_check=[HealthCheck.too_slow])
JSON_VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.integers(), st.booleans()),
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=8,
)


def file_row(path: str) -> FileRow:
    return FileRow(path, path.encode(), None, "a dog", 0.5, "m", "machine", 1, 1, "captioned", None, None, None)


def first_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[0]


def test_the_summary_of_a_job_counts_images_copies_and_skipped_files(capsys: pytest.CaptureFixture[str]) -> None:
    render_jobs.print_finished(DONE, 2.04, {"truncated": 1}, [], "captions.sqlite", ["producer retry 1 --failed"])
    output = capsys.readouterr().out
    assert output.startswith(
        "job 1 done in 2.0 s: 10 captioned, 2 copies of captioned images, 3 already captioned, 1 failed (1 truncated);"
        " skipped 2 other files, 1 hidden file\n"
    )
    assert output.endswith("The captions are in captions.sqlite. Next:\n  producer retry 1 --failed\n")


def test_a_single_image_is_not_written_as_several(capsys: pytest.CaptureFixture[str]) -> None:
    one = replace(DONE, total=1, captioned=0, reused=1, failed=0, known=0, skipped={"other file": 1})
    render_jobs.print_finished(one, 1.0, {}, [], "x", [])
    assert first_line(capsys) == "job 1 done in 1.0 s: 1 copy of a captioned image; skipped 1 other file"
    render_jobs.print_status(one, {}, [])
    assert "1 image: 1 copy of a captioned image\n" in capsys.readouterr().out
    render_jobs.print_queued(replace(one, state=JobState.ACTIVE))
    assert first_line(capsys) == "job 1: 1 image queued; producer status 1 --watch"
    render_jobs.print_requeued(1, 1)
    assert first_line(capsys) == "job 1: 1 image queued again"
    render_jobs.print_dry_run(DryRun(1, skipped={"hidden": 1}), as_json=False)
    assert first_line(capsys) == "1 image would be submitted; skipped 1 hidden file"


def test_a_job_without_work_is_reported_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    render_jobs.print_finished(
        replace(DONE, total=0, captioned=0, reused=0, failed=0, known=0, skipped={}), 0.0, {}, [], "x", []
    )
    assert capsys.readouterr().out == "job 1 done in 0.0 s: nothing to do\n"


def test_the_status_of_a_job_counts_what_is_to_do_and_its_failures_by_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    render_jobs.print_status(replace(DONE, state="active", captioned=5, failed=3), {"missing": 1, "unreadable": 2}, [])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "16 images: 5 captioned, 2 copies of captioned images, 3 already captioned,"
        " 3 failed (2 unreadable, 1 missing), 3 to do",
        "skipped 2 other files, 1 hidden file",
    ]


def test_a_paused_job_names_the_command_that_resumes_it(capsys: pytest.CaptureFixture[str]) -> None:
    render_jobs.print_queued(replace(DONE, state=JobState.PAUSED))
    assert first_line(capsys).endswith("the job is paused: producer resume 1")


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        ([], ""),
        (["/a/b/x.jpg"], "/a/b/"),
        (["/a/b/x.jpg", "/a/c/y.jpg"], "/a/"),
        (["/a/bc/x.jpg", "/a/bd/y.jpg"], "/a/"),
        (["/x.jpg", "/y.jpg"], "/"),
        (["/a/x.jpg", "/a/b/y.jpg"], "/a/"),
    ],
)
def test_the_common_folder_ends_with_a_slash_and_holds_all_files(paths: list[str], folder: str) -> None:
    assert render.common_folder([file_row(path) for path in paths]) == folder


def test_a_table_in_a_pipe_has_one_line_per_row_and_tabs_between_cells(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(("a", "b"), [("x\ny", None), (1, "\x1b[2J")], wrap=())
    assert capsys.readouterr().out == "a\tb\nx\\ny\t\n1\t\\x1b[2J\n"


def test_search_reports_on_standard_error_how_many_more_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [file_row("/x.jpg")]
    render_files.print_search(1, rows, 100)
    render_files.print_search(7, rows, 100)
    render_files.print_search(101, rows, 100)
    render_files.print_search(0, [], 100)
    assert capsys.readouterr().err.splitlines() == [
        "1 of 7; --limit shows more",
        "1 of more than 100; --limit shows more",
        "nothing found",
    ]


@SLOW_TO_DRAW
@given(value=JSON_VALUES)
def test_json_reads_back_as_written_and_is_one_printable_line(value: object) -> None:
    line = render.json_text(value)
    assert json.loads(line) == value
    assert line.isprintable()


@SLOW_TO_DRAW
@given(text=TEXTS)
def test_printable_text_is_kept_and_everything_else_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_control_characters_are_escaped_visibly() -> None:
    assert printable("a\x1b[31mb\nc\x07") == "a\\x1b[31mb\\nc\\x07"
