"""The how-to pages do what they say: each runs as it is written, with the programs, on sixty photographs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from captioning.errors import FileLeft
from producer.export.xmp_packet import ALT_TEXT, DESCRIPTION, parse
from tests.docs.pages import PROJECT, code_lines
from tests.journeys.cli_runner import CliRunner

FOLDERS = ("", "2024/Ostsee im März", "2024/garden/birds", "2025")
PHRASE = "photo of ohwx, "
Steps = Mapping[str, Callable[[], None]]


@pytest.fixture
def place(tmp_path: Path, photographs: Path) -> Path:
    """A folder with `photos/`: sixty different photographs, in three formats, in nested folders."""
    originals = [Image.open(path).convert("RGB").resize((320, 240)) for path in sorted(photographs.iterdir())]
    named = iter(("beach", "border", "dune", "coffee", "rocket"))
    for i in range(60):
        folder = tmp_path / "photos" / FOLDERS[i // 15]
        folder.mkdir(parents=True, exist_ok=True)
        image = ImageOps.mirror(originals[i % 10]) if i // 10 % 2 else originals[i % 10]
        image = image.crop((0, 0, 320 - i, 240 - i // 2))
        name = next(named, f"IMG {i:04d}")
        image.save(folder / f"{name}.{('jpg', 'png', 'webp')[i % 3] if name[0] == 'I' else 'jpg'}")
    return tmp_path


def follow(page: str, runner: CliRunner, place: Path, *, before: Steps, after: Steps) -> list[str]:
    """Run the command lines of a page one after another, except training; return those that ran.

    `before` and `after` are by the beginning of a command, and must all be used.
    """
    commands = [
        line for line in code_lines((PROJECT / "docs/how-to" / page).read_text()) if line.startswith("producer")
    ]
    waiting = {("before", start): step for start, step in before.items()}
    waiting |= {("after", start): step for start, step in after.items()}
    environment = runner.env | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        for moment in ("before", "after"):
            if moment == "after":
                done = subprocess.run(
                    ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            start = next((s for m, s in waiting if m == moment and command.startswith(s)), None)
            if start is not None:
                waiting.pop((moment, start))()
    assert not waiting
    return commands


def files_of(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob(pattern) if file.is_file()}


def rows_of(runner: CliRunner) -> dict[str, dict[str, object]]:
    """Return the rows of an export, by the name of the image below `photos`."""
    done = runner.producer("export", "--format", "jsonl")
    assert done.code == 0, done.err
    rows = done.lines
    return {row["path"].partition("/photos/")[2]: row for row in rows}


@pytest.mark.slow
def test_a_training_set_gets_sidecars_with_a_trigger_word_and_loses_no_word_of_a_person(
    runner: CliRunner, place: Path
) -> None:
    photos = place / "photos"
    (photos / "dune.txt").write_bytes(b"meine D\xc3\xbcne\r\n")
    (photos / FOLDERS[1] / "notes.txt").write_bytes(b"not of an image")
    at_first = files_of(photos)

    def beside() -> None:
        texts = files_of(photos, "*.txt")
        assert at_first.items() <= files_of(photos).items()
        for name, row in rows_of(runner).items():
            sidecar = str(Path(name).with_suffix(".txt"))
            if name == "dune.jpg":
                continue
            wanted = f"{PHRASE}{row['caption']}\n".encode()
            assert texts.get(sidecar) == (wanted if float(str(row["confidence"])) >= 0.2 else None)

    def undone() -> None:
        assert files_of(photos) == at_first

    def tree() -> None:
        expected = {str(Path(name).with_suffix(".txt")): row for name, row in rows_of(runner).items()}
        written = files_of(place / "tree" / "photos" if (place / "tree" / "photos").exists() else place / "tree")
        assert written.keys() == expected.keys()
        for name, row in expected.items():
            folder = (photos / name).parent.name
            assert written[name].decode() == f"{row['caption']}, in the folder {folder}\n"
        assert files_of(photos) == at_first

    def imagefolder() -> None:
        lines = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()]
        assert {line["file_name"]: line["text"] for line in lines} == {
            name: row["caption"] for name, row in rows_of(runner).items()
        }

    def coco() -> None:
        assert len(json.loads((place / "captions.json").read_text())["annotations"]) == 60

    def two_are_human() -> None:
        assert runner.producer("correct", str(photos / "beach.jpg"), "Rex on the beach").code == 0
        assert runner.producer("accept", str(photos / "dune.jpg")).code == 0

    def training() -> None:
        lines = list(csv.reader((place / "mine" / "captions.txt").read_text().splitlines()))[1:]
        assert "Rex on the beach" in [caption for _, caption in lines]
        images = files_of(place / "mine" / "Images")
        assert sorted(images) == sorted(name for name, _ in lines)
        assert at_first["beach.jpg"] in images.values()

    follow(
        "training-set.md",
        runner,
        place,
        before={"producer export --format training": two_are_human},
        after={
            "producer export --beside --format txt": beside,
            "producer export --undo": undone,
            "producer export -o tree": tree,
            "producer export -o photos/metadata.jsonl": imagefolder,
            "producer export -o captions.json": coco,
            "producer export --format training": training,
        },
    )
    assert len(list((place / "shards").glob("*.tar"))) == 1
    assert set(files_of(place / "small")) <= {str(Path(name).with_suffix(".txt")) for name in rows_of(runner)} | {
        f"photos/{Path(name).with_suffix('.txt')}" for name in rows_of(runner)
    }


def test_alt_text_goes_to_a_spreadsheet_and_back_and_what_was_corrected_stays(runner: CliRunner, place: Path) -> None:
    table = place / "alt.csv"
    corrected = {"photos/beach.jpg": '=Rex, am "Strand"', "photos/2025/IMG 0050.webp": "Größe: 5 €\nzwei Zeilen"}

    def edit() -> None:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = csv.reader(file)
        assert len(lines) == 60
        caption, path = header.index("caption"), header.index("path")
        for line in lines:
            for name, text in corrected.items():
                if line[path].endswith(name):
                    line[caption] = text
        with table.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([header, *lines])

    def untouched() -> None:
        assert {row["source"] for row in rows_of(runner).values()} == {"machine"}

    def imported() -> None:
        rows = rows_of(runner)
        for name, text in corrected.items():
            row = rows[name.removeprefix("photos/")]
            assert (row["caption"], row["source"]) == (text, "human")
        assert sum(row["source"] == "human" for row in rows.values()) == len(corrected)

    done = follow(
        "alt-text.md",
        runner,
        place,
        before={"producer import alt.csv --as-human --dry-run": edit},
        after={
            "producer import alt.csv --as-human --dry-run": untouched,
            "producer import alt.csv --as-human": imported,
        },
    )
    assert sum(command.startswith("producer export") for command in done) == 2
    rows = rows_of(runner)
    assert rows["beach.jpg"]["caption"] == "Rex and Anna on the beach of Rerik"
    assert (rows["border.jpg"]["caption"], rows["border.jpg"]["source"]) == ("", "human")
    assert rows["dune.jpg"]["source"] == "machine"  # the page ends the part with `undo`, of `accept`
    assert not re.search(r"\ba man\b", " ".join(str(r["caption"]) for r in rows.values() if r["source"] == "machine"))


def test_an_archive_gets_captions_in_its_xmp_and_keeps_every_field_of_other_programs(
    runner: CliRunner, place: Path
) -> None:
    photos = place / "photos"
    images = sorted(path for path in photos.rglob("*") if path.suffix == ".jpg")
    samples = sorted(path for program in PROGRAMS for path in (PROJECT / "tests/producer/xmp" / program).glob("*.xmp"))
    kept: dict[str, bytes] = {}
    for image, sample in zip(images, samples, strict=False):
        image.with_suffix(".xmp").write_bytes(sample.read_bytes())
        kept[str(image.with_suffix(".xmp").relative_to(photos))] = sample.read_bytes()
    assert len(kept) >= 20
    at_first, fields = files_of(photos), exif_fields(photos)

    def merged() -> None:
        now = files_of(photos)
        captions = {str(Path(name).with_suffix(".xmp")): str(row["caption"]) for name, row in rows_of(runner).items()}
        assert now.keys() == at_first.keys() | captions.keys()
        for name, caption in captions.items():
            if name not in kept:
                assert parse(now[name]).text(DESCRIPTION) == parse(now[name]).text(ALT_TEXT) == caption
        for name, before in kept.items():
            remaining = iter(now[name])
            if now[name] != before:  # every byte of the other program is there, in its order
                assert caption_in(now[name]) == captions[name]
                assert all(byte in remaining for byte in before.replace(b"/>\n </rdf:RDF>", b">\n </rdf:RDF>"))
            words = words_of(before)
            assert not words or words_of(now[name]) == words
        assert sum(now[name] != before for name, before in kept.items()) >= 10
        fields_now = exif_fields(photos)
        for name, before_fields in fields.items():
            present = {key: value for key, value in before_fields.items() if value != ""}
            assert {key: fields_now[name].get(key) for key in present} == present

    def undone() -> None:
        assert files_of(photos) == at_first

    def imported() -> None:
        rows = rows_of(runner)
        described = {name for name in kept if words_of(kept[name]) or words_of(kept[name], ALT_TEXT)}
        assert {str(Path(n).with_suffix(".xmp")) for n, row in rows.items() if row["source"] == "imported"} <= described
        assert any(row["source"] == "imported" for row in rows.values())

    follow(
        "photo-archive.md",
        runner,
        place,
        before={},
        after={
            "producer export --beside --format xmp": merged,
            "producer export --undo": undone,
        },
    )
    imported()


PROGRAMS = ("lightroom", "darktable", "digikam", "exiftool", "captureone", "photoshop", "xnview")


def words_of(data: bytes, name: str = DESCRIPTION) -> str:
    try:
        return parse(data).text(name) or ""
    except FileLeft:
        return ""


def caption_in(data: bytes) -> str:
    return parse(data).recorded


def exif_fields(folder: Path) -> dict[str, dict[str, object]]:
    """Return what exiftool reads in all sidecars, by file; nothing where it is not installed (see `test-consumers`)."""
    exiftool = shutil.which("exiftool")
    if exiftool is None:
        return {}
    done = subprocess.run([exiftool, "-json", "-G1", "-a", "-r", "-ext", "xmp", "-XMP:all", str(folder)],
                          capture_output=True, check=False)  # fmt: skip
    return {str(one.pop("SourceFile")): one for one in json.loads(done.stdout or b"[]")}
