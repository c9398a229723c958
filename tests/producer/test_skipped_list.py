"""`producer submit` names what it skips, and its exit code says whether it was something that a person named."""

import base64
import os
from pathlib import Path

import pytest

from tests.journeys.cli_runner import CliRunner
from tests.producer.folders import create


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    create(folder, "a.jpg", "b.mov", "sub/c.txt", ".d.jpg", "@eaDir/e.jpg", "f.png")
    return folder


def test_every_skipped_path_is_listed_with_its_reason(cli: CliRunner, folder: Path) -> None:
    result = cli.producer("submit", "--dry-run", "--list-skipped", "--exclude", "*.png", str(folder))
    assert result.out == (
        f"{folder}/.d.jpg\thidden file\n{folder}/@eaDir\tthumbnail folder\n{folder}/b.mov\t.mov video\n"
        f"{folder}/f.png\tfiltered image\n{folder}/sub/c.txt\t.txt file\n"
        "1 image would be submitted: 1 new; skipped"
        " 1 .mov video, 1 .txt file, 1 filtered image, 1 hidden file, 1 thumbnail folder\n"
    )
    assert (result.code, result.err) == (0, "")
    assert "b.mov\t" not in cli.producer("submit", "--dry-run", str(folder)).out


def test_the_list_as_json_has_one_object_per_line_and_the_result_last(cli: CliRunner, folder: Path) -> None:
    *skipped, result = cli.producer("submit", "--dry-run", "--list-skipped", "--json", str(folder)).lines
    assert {"path": f"{folder}/b.mov", "skipped": ".mov video"} in skipped
    assert len(skipped) == result["skipped"] == 4


def test_the_list_shows_any_name_on_one_harmless_line_and_json_to_the_byte(cli: CliRunner, folder: Path) -> None:
    name = b"x\n\x1b[2J\xe9.txt"
    create(folder, os.fsdecode(name))
    assert "/x\\n\\x1b[2J%E9.txt\t.txt file\n" in cli.producer("submit", "--dry-run", "--list-skipped", str(folder)).out
    lines = cli.producer("submit", "--dry-run", "--list-skipped", "--json", str(folder)).lines
    (exact,) = (base64.b64decode(line["path_b64"]) for line in lines if "path_b64" in line)
    assert exact == os.fsencode(folder) + b"/" + name


def test_a_submit_that_finds_nothing_lists_what_it_skipped_too(cli: CliRunner, folder: Path) -> None:
    result = cli.producer("submit", "--list-skipped", "--include", "*.tif", str(folder))
    assert result.code == 2
    assert f"{folder}/a.jpg\tfiltered image\n" in result.out
    assert result.err.startswith("producer: no images found (skipped: 2 filtered images,")
    assert "--include '*.tif' matched no image. Check --include and --exclude.\n" in result.err
    assert result.err.count("\n") == 1


def test_a_folder_of_archives_gets_their_remedy(cli: CliRunner, tmp_path: Path) -> None:
    create(tmp_path, "in/a.zip")
    result = cli.producer("submit", str(tmp_path / "in"))
    assert result.err == "producer: no images found (skipped: 1 .zip archive). " + (
        "To caption what is in zip and tar files, name them or add --archives; unpack others first.\n"
    )


@pytest.mark.parametrize("options", [("--dry-run",), ()])
def test_a_list_with_a_wrong_line_is_submitted_and_ends_with_3(
    cli: CliRunner, folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    cli.environment["CAPTIONING_BROKER_URL"] = "redis+socket:///none"  # rows are committed, no worker comes
    (tmp_path / "list").write_text(f"{folder}/a.jpg\n{folder}/gone.jpg\n")
    result = cli.producer("submit", "--from-file", str(tmp_path / "list"), *options)
    assert result.code == 3
    assert f"producer: {folder}/gone.jpg: no such file or folder\n" in result.err
    assert "1 image " in result.out


def test_a_pattern_that_matched_nothing_is_told_once(cli: CliRunner, folder: Path) -> None:
    cli.environment["CAPTIONING_BROKER_URL"] = "redis+socket:///none"
    for options in ((), ("--dry-run",)):
        result = cli.producer("submit", str(folder), "--exclude", "drafts", *options)
        assert result.code == 0
        assert result.err.count("producer: --exclude 'drafts' matched no image and no folder\n") == 1
