"""`worker bench` measures a folder with the real model, and leaves everything as it was."""

import stat
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.journeys.cli_runner import CliRunner
from tests.worker.conftest import png
from tests.worker.test_bottleneck import measured
from worker.bench.job import find_files
from worker.bench.render import print_result
from worker.bench.result import BenchResult


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for number in range(40):
        (folder / ("below" if number % 2 else "") / f"{number}.png").write_bytes(png(number))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def cli(tmp_path: Path) -> CliRunner:
    return CliRunner(tmp_path / "data", with_compiled_model=True)


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_is_measured_and_nothing_is_changed(cli: CliRunner, images: Path) -> None:
    """Nor in a database or a broker that is configured."""
    cli.environment = {
        "CAPTIONING_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:9/none",
        "CAPTIONING_BROKER_URL": "redis://127.0.0.1:9/0",
        "CAPTIONING_BATCH_SIZE": "4",
        "OMP_NUM_THREADS": "1",  # more would wait for each other where other programs run
    }
    before = everything(images)
    result = cli.run("worker", "bench", str(images), "--seconds", "1", "--json")
    assert result.code == 0, result.err
    assert set(result.json) == {field.name for field in fields(BenchResult)}
    assert result.json["images"] > 0
    assert result.json["images_per_second"] > 0
    assert (result.json["files"], result.json["failed"]) == (41, 1)
    assert result.json["batch_size"] == 4
    assert result.json["stages"]["encode"]["seconds"] > 0
    assert result.json["bottleneck"] in ("device", "decode", "read", "database")
    assert everything(images) == before
    assert not (cli.data / "captions.sqlite").exists()


def test_what_cannot_be_measured_is_one_line(cli: CliRunner, tmp_path: Path) -> None:
    empty, texts = tmp_path / "empty", tmp_path / "texts"
    empty.mkdir()
    texts.mkdir()
    (texts / "a\x1b[31m.txt").write_text("no image")
    for folder, words in (
        (tmp_path / "none", "is no folder"),
        (texts / "a\x1b[31m.txt", "is no folder"),
        (empty, "contains no files"),
        (texts, "none of 1 file is an image that can be decoded"),
    ):
        result = cli.run("worker", "bench", str(folder))
        assert (result.code, result.out) == (2, "")
        assert words in result.err
        assert len(result.err.splitlines()) == 1
        assert "\x1b" not in result.err


def test_links_and_hidden_files_are_not_used(images: Path, tmp_path: Path) -> None:
    (images / ".hidden.png").write_bytes(png(1))
    (images / "link.png").symlink_to(images / "0.png")
    (images / "link").symlink_to(images / "below")
    found = [file.path for file in find_files(images, 1000)]
    assert len(found) == 41
    assert found == [file.path for file in find_files(images, 1000)]
    assert len(find_files(images, 7)) == 7


@pytest.mark.parametrize("width", [50, 80, 160])
def test_a_result_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_result(
        replace(
            measured({"encode": 0.6, "search": 0.35, "decode": 0.4}), failed=3,
            reason="the CPU is the limit: the encoder takes 60% of the time and the search of words 35%.",
            remedy="a GPU, or workers on more machines",
        )
    )  # fmt: skip
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= width
    for words in ("100 images/s", "95% of the 105", "encode", "60%", "The CPU is the limit", "What helps: a GPU"):
        assert words in " ".join(out.split())
