"""`kill -9` at random moments of every command that writes captions or sidecars: the old state or the new one."""

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

import migrations
from captioning.settings import read_settings
from captioning.store import leases
from captioning.store.captions import export_rows
from captioning.store.database import Database
from captioning.values import DecodeOptions
from producer.sources import Filters, read_sources
from producer.submit import SubmitRequest, submit
from scripts.sample_images import copy_samples
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import LSTM, StoreDriver, captioned

MINE = "meine W\u00f6rter\n".encode()
XMP = (
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    b' xmlns:p="urn:p:" p:mine="1"/></rdf:RDF>'
)


@pytest.fixture
def cli(tmp_path: Path) -> CliRunner:
    """Forty captioned photographs in four folders; beside half of them a person has a text file and XMP."""
    folder = tmp_path / "photographs"
    for name in "abcd":
        for file in copy_samples(folder / name):
            file.write_bytes(file.read_bytes() + name.encode())  # other content in each folder
    for i, file in enumerate(sorted(folder.rglob("*.*"))):
        if i % 2:
            file.with_suffix(".txt").write_bytes(MINE)
            file.with_suffix(".xmp").write_bytes(XMP)
    settings = read_settings(data_dir=tmp_path / "data")
    db = Database.open(settings)
    migrations.ensure_schema(db)
    submit(db, settings, SubmitRequest(read_sources([os.fsencode(folder)]), Filters(), LSTM, DecodeOptions()), print)
    driver = StoreDriver(db, os.fsencode(folder))
    for claim in driver.claim_all():
        digests = [sha256((folder / os.fsdecode(item.path)).read_bytes()).hexdigest() for item in claim.items]
        texts = [f"two dogs and {item.file_id} cats" for item in claim.items]
        driver.commit_batch(claim, [captioned(*one) for one in zip(claim.items, texts, digests, strict=True)])
        leases.complete(db, claim)
    db.close()
    return CliRunner(tmp_path / "data")


def texts_of(folder: Path, ending: str) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob(f"*{ending}"))}


def captions_of(cli: CliRunner) -> list[str]:
    """Return all captions, of a database that is whole."""
    with sqlite3.connect(cli.data / "captions.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    db = Database(f"sqlite:///{cli.data / 'captions.sqlite'}")
    found = [row.caption or "" for row in export_rows(db)]
    db.close()
    return found


def kill_again_and_again(
    cli: CliRunner, rounds: int, *arguments: str, check: Callable[[], None], allowed: tuple[int, ...] = (0,)
) -> None:
    """Start a command and kill it at a random moment, many times; then let it end, with an allowed exit code."""
    started = time.monotonic()
    probe = cli.run("producer", "--version")
    assert probe.code == 0
    usual = 4 * (time.monotonic() - started)
    chance = random.Random(len(arguments))
    for _ in range(rounds):
        path = Path(sys.executable).with_name("producer")
        process = subprocess.Popen(
            [path, *arguments], env=cli.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.3, 1) * usual)
        process.kill()
        process.wait()
        check()
    done = cli.run("producer", *arguments)
    assert done.code in allowed, done.err
    check()


ROUNDS = [1, pytest.param(50, marks=pytest.mark.slow)]
SLOW_FILES = [pytest.param(f"captions.{form}", marks=pytest.mark.slow) for form in ("jsonl", "json", "parquet")]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize(
    ("form", "ending", "how", "mine"),
    [
        ("txt", ".txt", "append", MINE),
        pytest.param("txt", ".txt", "prepend", MINE, marks=pytest.mark.slow),
        pytest.param("txt", ".txt", "overwrite", MINE, marks=pytest.mark.slow),
        ("xmp", ".xmp", "merge", XMP),
        pytest.param("xmp", ".xmp", "overwrite", XMP, marks=pytest.mark.slow),
    ],
)
def test_a_killed_export_leaves_what_was_there_or_what_it_writes_and_an_undo_puts_it_back(
    form: str, ending: str, how: str, mine: bytes, rounds: int, cli: CliRunner, tmp_path: Path
) -> None:
    folder = tmp_path / "photographs"
    before = texts_of(folder, ending)
    originals = texts_of(folder, "g")

    def check() -> None:
        now = texts_of(folder, ending)
        assert before.keys() <= now.keys()
        for file, data in now.items():
            is_new = b"two dogs and" in data
            keeps = how == "overwrite" or all(byte in iter(data) for byte in mine.replace(b"/", b"")[:20])
            assert data == before.get(file) or (is_new and (file not in before or keeps)), file
        assert texts_of(folder, "g") == originals

    kill_again_and_again(cli, rounds, "export", "--beside", "--format", form, "--on-existing", how, check=check)
    assert len(texts_of(folder, ending)) == 40
    assert all(b"two dogs and" in data for data in texts_of(folder, ending).values())
    assert not list(folder.rglob(".captionmill-*"))

    def restored() -> None:
        for file, data in texts_of(folder, ending).items():
            assert data == before.get(file) or b"two dogs and" in data

    for _ in range(rounds + 1):  # each undo takes back what the last export wrote that is not undone
        kill_again_and_again(cli, 1, "export", "--undo", check=restored, allowed=(0, 2))  # 2: all is undone
        if texts_of(folder, ending) == before:
            break
    assert texts_of(folder, ending) == before


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("name", ["captions.csv", "metadata.hf", *SLOW_FILES])
def test_a_killed_export_to_a_file_leaves_the_old_file_or_the_new_one(
    name: str, rounds: int, cli: CliRunner, tmp_path: Path
) -> None:
    file = tmp_path / ("photographs/metadata.jsonl" if name.endswith("hf") else name)
    command = ("export", "-o", str(file), *(("--format", "hf") if name.endswith("hf") else ()))
    assert cli.run("producer", *command).code == 0
    old = file.read_bytes()
    assert cli.run("producer", "replace", "dogs", "puppies", "--yes").code == 0
    assert cli.run("producer", *command).code == 0
    new = file.read_bytes()
    file.write_bytes(old)

    def whole() -> None:
        assert file.read_bytes() in (old, new)

    kill_again_and_again(cli, rounds, *command, check=whole)
    assert file.read_bytes() == new != old
    assert not list(file.parent.glob(".captionmill-*"))


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("form", ["webdataset", pytest.param("training", marks=pytest.mark.slow)])
def test_a_killed_export_to_a_folder_leaves_a_whole_folder_or_none(
    form: str, rounds: int, cli: CliRunner, tmp_path: Path
) -> None:
    paths = sorted(str(file) for file in (tmp_path / "photographs").rglob("*g"))
    assert cli.run("producer", "accept", *paths).code == 0
    whole = tmp_path / "whole"
    assert cli.run("producer", "export", "--format", form, "-o", str(whole)).code == 0
    expected = {file.relative_to(whole): file.read_bytes() for file in whole.rglob("*") if file.is_file()}
    folder = tmp_path / "folder"

    def check() -> None:
        found = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        assert found == expected or not folder.exists()

    # 2: a process before was killed after it had written the folder
    kill_again_and_again(cli, rounds, "export", "--format", form, "-o", str(folder), check=check, allowed=(0, 2))
    assert folder.exists()
    assert len(expected) == (41 if form == "training" else 1)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_killed_gallery_leaves_the_older_one_or_the_new_one(rounds: int, cli: CliRunner, tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    command = ("gallery", "-o", str(folder), "--title")
    assert cli.run("producer", *command, "old").code == 0

    def whole() -> None:
        index = (folder / "index.html").read_text()
        named = [folder / name for name in re.findall(r'(?:src|href)="([^"]+)"', index)]
        (meta,) = (file for file in named if file.name == "meta.js")
        assert all(file.stat().st_size for file in named)
        assert re.search(r'"title":"(old|new)"', meta.read_text())
        for thumbnail in re.findall(r'"(../[0-9a-f]{20}.jpg)"', (meta.parent / "list-0.js").read_text()):
            assert (folder / "small" / thumbnail).stat().st_size

    kill_again_and_again(cli, rounds, *command, "new", "--large", "400", check=whole)
    assert len(list(folder.glob("small/??/*.jpg"))) == len(list(folder.glob("large/??/*.jpg"))) == 40
    assert len(list(folder.glob("data-*"))) == len(list(folder.glob("page-*"))) == 1
    assert not list(folder.rglob(".captionmill-*"))


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_killed_correction_or_undo_is_made_or_not_and_its_history_says_which(
    rounds: int, cli: CliRunner, tmp_path: Path
) -> None:
    path = str(sorted((tmp_path / "photographs").rglob("*g"))[0])
    before = captions_of(cli)
    first = before[0]

    def check(*allowed: str) -> Callable[[], None]:
        def is_whole() -> None:
            now = captions_of(cli)
            assert now[1:] == before[1:]
            assert now[0] in allowed
            history = json.loads(cli.run("producer", "show", path, "--history", "--json", "--limit", "1000").out)
            shown = [entry["after"] for entry in history if entry["verb"] != "undo" and not entry["undone"]]
            assert (shown[0] if shown else first) == now[0]

        return is_whole

    for number in range(rounds):
        mine = f"my words {number}"
        kill_again_and_again(cli, 1, "correct", path, mine, check=check(captions_of(cli)[0], mine))
        assert captions_of(cli)[0] == mine
        kill_again_and_again(cli, 1, "accept", path, check=check(mine))
    some = check(first, *(f"my words {number}" for number in range(rounds)))
    while captions_of(cli)[0] != first:  # each undo takes back one of them; the killed one may have been the last
        kill_again_and_again(cli, 1, "undo", allowed=(0, 2), check=some)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_killed_change_of_captions_is_made_as_a_whole_or_not_at_all(
    rounds: int, cli: CliRunner, tmp_path: Path
) -> None:
    before = captions_of(cli)
    after = [text.replace("dogs", "puppies") for text in before]

    def whole() -> None:
        assert captions_of(cli) in (before, after)

    kill_again_and_again(cli, rounds, "replace", "dogs", "puppies", "--yes", check=whole)
    assert captions_of(cli) == after
    file = tmp_path / "edited.csv"
    cli.run("producer", "export", "-o", str(file))
    file.write_text(file.read_text().replace("two puppies", "three puppies"))
    imported = [text.replace("two", "three") for text in after]

    def all_or_nothing() -> None:
        assert captions_of(cli) in (after, imported)

    kill_again_and_again(cli, rounds, "import", str(file), check=all_or_nothing)
    assert captions_of(cli) == imported
    kill_again_and_again(cli, 0, "undo", check=all_or_nothing)
    assert captions_of(cli) == after
