"""A folder of phone, camera and scanner files is captioned like one of JPEGs."""

from pathlib import Path

import pytest

from captioning.decoding.confinement import available
from scripts.format_images import extra_bases
from tests.journeys.cli_runner import CliRunner


@pytest.mark.skipif(not available().is_complete, reason="this kernel cannot confine processes")
def test_every_extra_format_gets_a_caption(runner: CliRunner, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    bases = extra_bases()
    for number, (extension, data) in enumerate(bases.values()):
        (folder / f"{number}.{extension}").write_bytes(data)
    counts = runner.submit(str(folder))
    assert (counts["new"], counts["failed"]) == (len(bases), 0)
    assert all(row["caption"] for row in runner.producer("export").lines)
