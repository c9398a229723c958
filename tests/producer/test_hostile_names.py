"""Names, details and words that mean something to terminals, tables and spreadsheets come out as what they are."""

import base64
import csv
import io
import json
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import migrations
from captioning.bundles import find_bundles
from captioning.paths import text_of
from captioning.settings import read_settings
from captioning.store import jobs, leases
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.leases import Outcome, WorkerInfo
from captioning.terminal import printable
from captioning.values import ItemState, Reason
from producer.export import harmless, write_csv
from producer.render import json_text
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import World, captioned

ROOT = b"/=roots\x1b[31m\n\xff[/bold]"
NAMES = (
    b"=1+1.jpg", b"+1.jpg", b"-1.jpg", b"@SUM(A1).jpg", b"\t=1.jpg", b"\r=1.jpg", b"line\nfeed.jpg", b"a,b;c.jpg",
    b'quote".jpg', b"'.jpg", b"\x1b[2J\x1b]0;owned\x07.jpg", b"\x7f\x08\x08.jpg", "\u009b2J.jpg".encode(),
    "\u202egnp.exe\u2066.jpg".encode(), "\u2028\u200b\ufeff.jpg".encode(), b"<img src=x onerror=alert(1)>.jpg",
    b"%41%s%n.jpg", b"[red]x[/red].jpg", b"caf\xe9.jpg", b"\xed\xa0\x80.jpg", b"back\\slash.jpg", "Ünï 🐕.jpg".encode(),
)  # fmt: skip
WORDS = "=cmd \x1b[2J \u009b2J \u202edog"
DETAIL = "@broken \x1b]0;owned\x07\n\u2066chunk"
PATHS = [ROOT + b"/" + name for name in NAMES]


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> CliRunner:
    """Somebody with hostile rows: every other image captioned, the others failed but for the last."""
    someone = CliRunner(tmp_path_factory.mktemp("hostile") / "data", {"TERM": "dumb", "COLUMNS": "100"})
    db = Database(read_settings(data_dir=someone.data).store_url)
    migrations.ensure_schema(db)
    world = World(db, ROOT)
    job = world.job("=job\x1b[2J\u202e\n")
    world.register(job, [FoundFile(name, 100 + i, 1) for i, name in enumerate(NAMES)], chunk=len(NAMES))
    jobs.close_registration(db, job, 0, {})
    claim = world.claim()
    assert claim is not None
    outcomes = [
        captioned(work, WORDS) if i % 2 else Outcome(work, ItemState.FAILED, reason=Reason.UNREADABLE, detail=DETAIL)
        for i, work in enumerate(claim.work[:-1])
    ]
    world.record(claim, outcomes)
    leases.release(db, claim, 0.0)
    db.close()
    return someone


def exact(cells: list[dict[str, str]]) -> list[bytes]:
    """The paths that CSV rows name, to the byte."""
    return [base64.b64decode(row["path_b64"]) if row.get("path_b64") else row["path"].encode() for row in cells]


def test_json_lines_name_every_file_to_the_byte(person: CliRunner) -> None:
    rows = person.producer("export").lines
    found = [base64.b64decode(row["path_b64"]) if "path_b64" in row else row["path"].encode() for row in rows]
    assert sorted(found) == sorted(PATHS)
    assert {row["caption"] for row in rows} == {WORDS, None}
    assert {row["error"] for row in rows} == {f"unreadable: {DETAIL}", None}


def test_csv_names_every_file_to_the_byte_and_no_cell_is_a_formula(person: CliRunner, tmp_path: Path) -> None:
    said = person.producer("export", "--format", "csv", "-o", str(tmp_path / "out.csv"))
    assert said.code == 0
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(exact(rows)) == sorted(PATHS)
    assert {row["caption"] for row in rows} == {"'" + WORDS, ""}
    assert {row["error"] for row in rows} == {f"unreadable: {DETAIL}", ""}
    for row in rows:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in row.values())


def test_failures_are_the_same_in_csv_and_json(person: CliRunner) -> None:
    told = person.producer("failures", "--json").json
    path = Path(sys.executable).with_name("producer")
    raw = subprocess.run([path, "failures", "--csv"], env=person.env, capture_output=True, check=True).stdout
    rows = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    assert [row["path"] for row in rows] == [row["path"] for row in told]
    assert {row["path"] for row in rows} == {text_of(p) for p in PATHS} - {
        row["path"] for row in person.producer("export").lines if row["status"] != "failed"
    }
    assert {row["detail"] for row in rows} == {"'" + DETAIL}
    assert {row["detail"] for row in told} == {DETAIL}


def on_a_terminal(person: CliRunner, *words: str | bytes) -> str:
    """Run `producer` at a real terminal; return what the terminal got, errors too."""
    ours, theirs = pty.openpty()
    path = Path(sys.executable).with_name("producer")
    running = subprocess.Popen([path, *words], env=person.env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    got = bytearray()
    try:
        while part := os.read(ours, 65536):
            got += part
    except OSError:  # how Linux says that the other side of a terminal has gone
        pass
    os.close(ours)
    assert running.wait() in (0, 2)
    return got.decode()


@pytest.mark.parametrize(
    "words",
    [
        ("export",),
        ("export", "--format", "csv"),
        ("failures",),
        ("failures", "--csv"),
        ("search", "dog"),
        ("jobs",),
        ("show", os.fsdecode(PATHS[1])),
        ("show", os.fsdecode(PATHS[10])),
        ("show", "/not/there\x1b[2J\u202e"),
        ("submit", "/not/there\x1b[2J\u202e\udce9"),
        ("export", "-o", "/not/there\x1b[2J/x"),
    ],
    ids=lambda words: " ".join(printable(word) for word in words)[:40],
)
def test_nothing_that_a_terminal_obeys_reaches_one(person: CliRunner, words: tuple[str, ...]) -> None:
    assert_harmless(on_a_terminal(person, *words))


def assert_harmless(shown: str) -> None:
    assert shown.strip()
    odd = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")} - {"\r", "\n", "\t"}
    assert odd == set()
    assert "Traceback" not in shown


def test_a_line_feed_in_a_name_makes_no_row_of_its_own(person: CliRunner) -> None:
    assert len(person.producer("failures").out.splitlines()) == 1 + len(NAMES) // 2
    assert len(person.producer("export").out.splitlines()) == len(NAMES)


def test_a_job_that_stands_still_names_its_root_harmlessly(person: CliRunner) -> None:
    db = Database(read_settings(data_dir=person.data).store_url)
    digests = tuple(bundle.digest for bundle in find_bundles().values())
    workers.heartbeat(db, WorkerInfo("w", "host", digests, "torch"), roots=[])
    shown = on_a_terminal(person, "status")
    assert_harmless(shown)
    assert "no worker sees the root" in shown
    workers.heartbeat(db, WorkerInfo("w", "host", (), "torch"), roots=[])
    db.close()
    assert "no worker has the job's model, flickr8k-lstm" in on_a_terminal(person, "status")


PATIENT = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ANYTHING = st.one_of(TEXTS, st.text(st.sampled_from("=+-@\t\r\n\0\"',;\x1b\x7f\x9b\u202e\u2028＝ab")), st.none())


@PATIENT
@given(rows=st.lists(st.lists(ANYTHING, min_size=2, max_size=2), max_size=5))
def test_csv_comes_back_as_it_was_but_for_the_mark_before_a_formula(rows: list[list[str | None]]) -> None:
    file = io.StringIO(newline="")
    assert write_csv(("a", "b"), rows, file) == len(rows)
    file.seek(0)
    header, *back = csv.reader(file)
    assert header == ["a", "b"]
    assert back == [["" if cell is None else harmless(cell) for cell in row] for row in rows]
    for cell in (cell for row in back for cell in row if cell):
        assert cell[0] not in "=+-@\t\r\n\0＝＋－＠"


@PATIENT
@given(text=TEXTS)
def test_a_cell_changes_only_by_the_mark_before_a_formula(text: str) -> None:
    assert harmless(text) in (text, "'" + text)


@PATIENT
@given(value=st.recursive(ANYTHING, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8))
def test_json_comes_back_as_it_was_and_is_one_visible_line(value: object) -> None:
    line = json_text(value)
    assert json.loads(line) == value
    assert line.isprintable()


@PATIENT
@given(text=st.text())
def test_what_is_printed_can_be_seen(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text
