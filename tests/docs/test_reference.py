"""The reference pages are generated, and `make lint` notices when they are stale."""

from pathlib import Path

import pytest

from scripts import reference


def test_the_reference_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_is_named_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference.main([], tmp_path)
    (tmp_path / "cli.md").write_text("# Old\n")
    assert reference.main(["--check"], tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cli.md" in line
    assert "schema.md" not in line
