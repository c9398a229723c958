"""The commands that change captions, and those that ask about them: answers, wrong input, and the way back."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from captioning.store.database import Database
from captioning.store.schema import File, Image
from scripts.sample_images import copy_samples
from tests.journeys.cli_runner import CliRunner
from training.data.corpus import read_corpus


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of photographs that a test may write to."""
    copy_samples(tmp_path / "photographs")
    return tmp_path / "photographs"


@pytest.fixture
def cli(cli: CliRunner, captioned_store: Database, photographs: Path) -> CliRunner:
    """The programs, with ten captioned photographs and their real digests."""
    with captioned_store.writing() as connection:
        for file in photographs.iterdir():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            image = sa.select(File.image_id).where(File.path == file.name).scalar_subquery()
            connection.execute(sa.update(Image).where(Image.id == image).values(sha256=digest))
    return cli


def caption_of(cli: CliRunner, path: Path) -> str:
    return str(cli.producer("show", str(path), "--json").json["caption"])


def test_a_correction_is_shown_has_a_history_and_is_taken_back(cli: CliRunner, photographs: Path) -> None:
    coffee = photographs / "coffee.png"
    done = cli.producer("correct", str(coffee), "  my cup ")
    assert done.code == 0
    assert done.out.splitlines()[1:] == ["  my cup", "  before, by lstm: two dogs run past image 6"]
    assert caption_of(cli, coffee) == "my cup"
    (entry,) = cli.producer("show", str(coffee), "--history", "--json").json
    assert (entry["verb"], entry["after"], entry["undone"]) == ("correct", "my cup", False)
    assert "correct" in cli.producer("show", str(coffee), "--history").out
    assert cli.producer("undo").out == "change 1 (correct): 1 caption as before\n"
    assert caption_of(cli, coffee) == "two dogs run past image 6"
    nothing = cli.producer("undo")
    assert (nothing.code, nothing.err) == (2, "producer: there is nothing to undo.\n")


def test_an_image_can_be_decorative_and_a_caption_accepted(cli: CliRunner, photographs: Path) -> None:
    assert "decorative" in cli.producer("correct", str(photographs / "grass.png"), "--decorative").out
    assert caption_of(cli, photographs / "grass.png") == ""
    accepted = cli.producer("accept", str(photographs / "coffee.png"), str(photographs / "rocket.jpg"), "--json")
    rows = [json.loads(line) for line in accepted.out.splitlines()]
    assert [row["source"] for row in rows] == ["human", "human"]
    assert cli.producer("undo", "2").out == "change 2 (accept): 2 captions as before\n"
    assert cli.producer("show", str(photographs / "coffee.png"), "--json").json["source"] == "machine"


def test_words_are_replaced_after_a_preview_and_put_back(cli: CliRunner, photographs: Path) -> None:
    preview = cli.producer("replace", "dogs", "puppies", "--dry-run")
    assert preview.out.count("two puppies run past image") == 10
    assert caption_of(cli, photographs / "coffee.png") == "two dogs run past image 6"
    refused = cli.producer("replace", "dogs", "puppies")
    assert refused.code == 2
    assert "Change 10 captions? There is no terminal to ask on, so nothing was changed: add --yes" in refused.err
    assert cli.producer("replace", "dogs", "puppies", "--yes").err.startswith("10 captions changed")
    row = cli.producer("show", str(photographs / "coffee.png"), "--json").json
    assert (row["caption"], row["source"], row["model"], row["edited"]) == (
        "two puppies run past image 6", "machine", "lstm", True,
    )  # fmt: skip
    some = cli.producer("replace", "two puppies", "a puppy", "--where", "path:coffee", "--yes", "--json").json
    assert (some["found"], some["changed"], some["captions"][0]["after"]) == (1, 1, "a puppy run past image 6")
    assert cli.producer("undo", "1").out.splitlines() == [
        "change 1 (replace): 9 captions as before",
        "1 caption left as they are: changed again since, or gone",
    ]


def test_an_edited_export_comes_back_and_an_unedited_one_changes_nothing(
    cli: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    for name in ("captions.csv", "captions.jsonl"):
        file = tmp_path / name
        cli.producer("export", "-o", str(file))
        unchanged = cli.producer("import", str(file), "--json").json
        assert unchanged == {"rows": {"same": 10}, "written": 0}
    rows = list(csv.DictReader((tmp_path / "captions.csv").read_text().splitlines()))
    for row in rows:
        if row["path"].endswith(("coffee.png", "rocket.jpg", "grass.png")):
            row["caption"] = "edited there"
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([*rows, rows[0] | {"path": "/elsewhere/x.jpg", "sha256": ""}])
    cli.producer("correct", str(photographs / "rocket.jpg"), "edited here")
    cli.producer("correct", str(photographs / "china.jpg"), "edited here too")
    counted = cli.producer("import", str(tmp_path / "captions.csv"), "--dry-run")
    assert counted.out.splitlines() == [
        "     2  changed in the file",
        "     6  the same in both",
        "     1  changed in the database since the export: they stay",
        "     1  in conflict: changed in both, or for an image that has changed",
        f"        captions.csv:11: {photographs}/rocket.jpg",
        "     1  of images that are not registered",
        "        captions.csv:12: /elsewhere/x.jpg",
    ]
    assert caption_of(cli, photographs / "coffee.png") == "two dogs run past image 6"
    assert cli.producer("import", str(tmp_path / "captions.csv"), "--json").json["written"] == 2
    assert cli.producer("show", str(photographs / "coffee.png"), "--json").json["source"] == "imported"
    assert caption_of(cli, photographs / "rocket.jpg") == "edited here"
    assert cli.producer("import", str(tmp_path / "captions.csv"), "--take", "theirs", "--json").json["written"] == 1
    assert caption_of(cli, photographs / "rocket.jpg") == "edited there"
    cli.producer("undo")
    assert caption_of(cli, photographs / "rocket.jpg") == "edited here"


def test_captions_of_other_programs_come_in_by_path_and_from_sidecars(
    cli: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    (photographs / "other.csv").write_text("file_name;text\ncoffee.png;Kaffee\n")
    assert cli.producer("import", str(photographs / "other.csv"), "--as-human", "--json").json["written"] == 1
    assert cli.producer("show", str(photographs / "coffee.png"), "--json").json["source"] == "human"
    (photographs / "grass.txt").write_text("Gras\n")
    (photographs / "rocket.txt").write_bytes(b"\xff\xfe")
    assert cli.producer("import", "--sidecars", "txt", "--json").json == {
        "rows": {"new": 1, "unreadable": 1},
        "written": 1,
    }
    assert caption_of(cli, photographs / "grass.png") == "Gras"
    cli.producer("export", "--beside", "--format", "xmp")
    assert cli.producer("import", "--sidecars", "xmp", "--json").json == {"rows": {"ours": 10}, "written": 0}
    assert tmp_path.is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["correct", "{}/coffee.png"], "give the caption, or --decorative"),
        (["correct", "{}/coffee.png", "a", "--decorative"], "leave out the text, or the option"),
        (["correct", "{}/nothing.png", "a"], "nothing.png is not registered and does not exist"),
        (["accept", "{}/nothing.png"], "is not registered"),
        (["undo", "7"], "there is no change 7 to undo"),
        (["import"], "name a file, or --sidecars txt, caption or xmp"),
        (["import", "{}/nothing.csv"], "nothing.csv does not exist: name a file of JSON lines or CSV"),
        (["import", "{}/coffee.png"], "cannot be imported: the name of such a file ends with .jsonl"),
        (["import", "{}/bad.jsonl"], "bad.jsonl:2: not a line of JSON"),
        (
            ["import", "{}/bad.csv"],
            "bad.csv: its first line must name the columns path (or file_name) and caption (or text), not",
        ),
        (["export", "--format", "txt"], "txt writes a file for each image: add --beside, or -o FOLDER"),
        (["export", "--format", "txt", "--beside", "-o", "x"], "--beside and -o exclude each other"),
        (["export", "--beside"], "--beside writes a file beside each image: add --format txt"),
        (["export", "--excel"], "--excel is for csv, not for jsonl"),
        (["export", "--format", "txt", "--beside", "--on-existing", "merge"], "a text file has no fields"),
        (["export", "--undo"], "there is no export to undo"),
        (["export", "--format", "hf", "-o", "/nowhere/metadata.jsonl"], "cannot write to /nowhere/metadata.jsonl"),
        (["export", "--format", "webdataset"], "webdataset writes a folder: name a new one with -o"),
        (["export", "--where", "confidence>7"], "'7' is no value of confidence, which is a number from 0 to 1"),
        (
            ["diff", "--model", "lstm", "--model", "gru"],
            "no caption is by gru: `producer submit FOLDER --model gru` makes some",
        ),
    ],
)
def test_wrong_input_gets_one_line_that_helps(
    arguments: list[str], message: str, cli: CliRunner, photographs: Path
) -> None:
    (photographs / "bad.jsonl").write_text('{"path": "a", "caption": "b"}\n{\n')
    (photographs / "bad.csv").write_text("a,b\n1,2\n")
    done = cli.producer(*(argument.format(photographs) for argument in arguments))
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_files_are_listed_counted_and_found_by_fields(cli: CliRunner, photographs: Path) -> None:
    cli.producer("correct", str(photographs / "coffee.png"), "my cup")
    assert len(cli.producer("list", "--json", "--status", "captioned", "--where", "source:machine").json) == 9
    listed = cli.producer("list", "--sort", "path", "--descending", "--limit", "2")
    assert [line.split("\t")[0].rsplit("/")[-1] for line in listed.out.splitlines()[1:]] == [
        "rocket.jpg",
        "motorcycle_left.png",
    ]
    assert listed.err == "the first 2; --limit shows more\n"
    counts = cli.producer("stats", "--json").json
    assert (counts["files"], counts["captioned"], counts["human"], counts["models"][0]["files"]) == (10, 10, 1, 9)
    assert cli.producer("stats").out.startswith("10 files, ")
    found = cli.producer("search", "cup OR path:rocket", "--json").json
    assert sorted(Path(row["path"]).name for row in found) == ["coffee.png", "rocket.jpg"]


def test_shards_have_each_image_with_its_caption_and_the_same_bytes_each_time(
    cli: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    (photographs / "coffee.png").write_bytes(b"other content")
    for name in ("first", "second"):
        done = cli.producer("export", "--format", "webdataset", "-o", str(tmp_path / name), "--shard-size", "4")
        assert done.code == 0
        assert "1 image left out: changed or gone since, submit again" in done.err
    first = {file.name: file.read_bytes() for file in (tmp_path / "first").iterdir()}
    assert sorted(first) == ["000000.tar", "000001.tar", "000002.tar"]
    assert first == {file.name: file.read_bytes() for file in (tmp_path / "second").iterdir()}
    again = cli.producer("export", "--format", "webdataset", "-o", str(tmp_path / "first"))
    assert "first exists: name a new folder, so that no old file stays in it" in again.err


def test_captions_of_people_become_a_folder_that_training_reads(
    cli: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    cli.producer("correct", str(photographs / "coffee.png"), "My cup, half full.")
    cli.producer("accept", str(photographs / "rocket.jpg"))
    done = cli.producer("export", "--format", "training", "-o", str(tmp_path / "mine"))
    assert done.err == f"2 images in {tmp_path}/mine\n"
    corpus = read_corpus(tmp_path / "mine")
    assert sorted(text for texts in corpus.captions.values() for text in texts) == [
        "My cup, half full.",
        "two dogs run past image 0",
    ]
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in corpus.image_folder.iterdir()}
    sources = (photographs / "coffee.png", photographs / "rocket.jpg")
    assert digests == {hashlib.sha256(file.read_bytes()).hexdigest() for file in sources}
