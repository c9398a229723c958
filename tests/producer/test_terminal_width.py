"""Tables and lines on terminals of 50, 80 and 160 columns: nothing is too wide, no number and no name is lost."""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace

import pytest

from captioning.near_duplicates import Kind
from captioning.store.jobs import Failure
from captioning.store.similar import Duplicates, SimilarFile
from producer import render_files, render_jobs, render_plan, render_similar
from tests.producer.test_plan import LARGE
from tests.producer.test_render import DONE, file_row

WIDTHS = (50, 80, 160)
LONG = "/srv/photographs/of the family/2024-08-12 holidays/IMG_20240812_153000.jpg"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=WIDTHS)
def shown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A function that prints on a terminal and returns its lines."""
    monkeypatch.setenv("COLUMNS", str(request.param))

    def show(function: Callable[..., None], *arguments: object) -> list[str]:
        with redirect_stdout(Terminal()) as terminal:
            function(*arguments)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
        assert max(map(len, lines)) <= request.param
        return lines

    return show


def test_a_list_of_jobs_keeps_the_whole_number_of_each_job(shown: Callable[..., list[str]]) -> None:
    rows = [replace(DONE, job=number, name="a long name of a job " * 3, created_at=1e9) for number in (2147483647, 7)]
    lines = shown(render_jobs.print_jobs, rows)
    assert [line.split()[0] for line in lines if line[0].isdigit()] == ["2147483647", "7"]
    assert sum("done" in line and "13/13" in line for line in lines) == 2


def test_names_of_files_stay_whole(shown: Callable[..., list[str]]) -> None:
    failures = [Failure(7, LONG, "truncated", "image file is truncated (11 bytes not processed)")]
    for lines in (shown(render_files.print_failures, failures), shown(render_files.print_files, [file_row(LONG)])):
        text = "\n".join(lines)
        assert "IMG_20240812_153000" in text or "holidays/IMG_" in text


def test_a_summary_wraps_between_words(shown: Callable[..., list[str]]) -> None:
    lines = shown(render_jobs.print_finished, DONE, 2.0, {"truncated": 1}, [], "captions.sqlite", [])
    assert "copies of captioned images" in " ".join(line.strip() for line in lines)


def test_a_cluster_of_duplicates_keeps_what_each_file_is(shown: Callable[..., list[str]]) -> None:
    path = LONG.encode()
    files = [SimilarFile(LONG, path, "0" * 64, 12000, 8000, 10**8, kind, 0.994) for kind in (None, Kind.MIRRORED)]
    lines = shown(render_similar.print_duplicates, Duplicates([files], 2, 0), 20)
    assert sum("mirrored 99 %" in line for line in lines) == 1
    lines = shown(render_similar.print_similar, files)
    assert sum("mirrored" in line and "99 %" in line for line in lines) == 1


def test_a_plan_keeps_its_numbers_and_its_words(shown: Callable[..., list[str]]) -> None:
    words = " ".join(shown(lambda plan: render_plan.print_plan(plan, as_json=False), LARGE)).split()
    assert words[:2] == ["1,204,331", "images"]
    assert words[-3:] == ["cannot", "be", "captioned."]
