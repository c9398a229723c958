"""File names, captions and error details that mean something to terminals, tables and spreadsheets."""

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

import migrations
from captioning.bundles import find_bundles
from captioning.paths import text_of
from captioning.settings import read_settings
from captioning.store import jobs, leases, workers
from captioning.store.database import Database
from captioning.store.files import FoundFile
from captioning.store.outcomes import Outcome
from captioning.store.workers import WorkerInfo
from captioning.values import ItemState, Reason
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import StoreDriver, captioned

pytestmark = pytest.mark.processes

ROOT = b"/=roots\x1b[31m\n\xff[/bold]"
NAMES = (
    b"=1+1.jpg", b"+1.jpg", b"-1.jpg", b"@SUM(A1).jpg", b"\t=1.jpg", b"\r=1.jpg", b"line\nfeed.jpg", b"a,b;c.jpg",
    b'quote".jpg', b"'.jpg", b"\x1b[2J\x1b]0;owned\x07.jpg", b"\x7f\x08\x08.jpg", "\u009b2J.jpg".encode(),
    "\u202egnp.exe\u2066.jpg".encode(), "\u2028\u200b\ufeff.jpg".encode(), b"<img src=x onerror=alert(1)>.jpg",
    b"%41%s%n.jpg", b"[red]x[/red].jpg", b"caf\xe9.jpg", b"\xed\xa0\x80.jpg", b"back\\slash.jpg", "Ünï 🐕.jpg".encode(),
)  # fmt: skip
CAPTION = "=cmd \x1b[2J \u009b2J \u202edog"
DETAIL = "@broken \x1b]0;owned\x07\n\u2066chunk"
PATHS = [ROOT + b"/" + name for name in NAMES]
PRODUCER = Path(sys.executable).with_name("producer")


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CliRunner:
    """The programs, with hostile rows: every other image is captioned, the others failed, and the last is pending."""
    runner = CliRunner(tmp_path_factory.mktemp("hostile") / "data", {"TERM": "dumb", "COLUMNS": "100"}, in_process=True)
    db = Database(read_settings(data_dir=runner.data).store_url)
    migrations.ensure_schema(db)
    driver = StoreDriver(db, ROOT)
    job = driver.open_job("=job\x1b[2J\u202e\n")
    driver.register(job, [FoundFile(name, 100 + i, 1) for i, name in enumerate(NAMES)], chunk_size=len(NAMES))
    jobs.close_registration(db, job, 0, {})
    claim = driver.claim()
    outcomes = [
        captioned(item, CAPTION) if i % 2 else Outcome(item, ItemState.FAILED, reason=Reason.UNREADABLE, detail=DETAIL)
        for i, item in enumerate(claim.items[:-1])
    ]
    driver.commit_batch(claim, outcomes)
    leases.release(db, claim, 0.0)
    db.close()
    return runner


def path_bytes(row: dict[str, str]) -> bytes:
    """Return the exact path of a CSV or JSON row."""
    return base64.b64decode(row["path_b64"]) if row.get("path_b64") else row["path"].encode()


RUN_EACH = """
import json, sys
import captionmill
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        captionmill.producer()
    except SystemExit as end:
        assert end.code in (None, 0, 2), end.code
    print("END", flush=True)
"""


def run_on_a_terminal(cli: CliRunner, *commands: tuple[str, ...]) -> list[str]:
    """Run command lines of `producer` in one process on a real terminal; return what each of them writes there."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", RUN_EACH, json.dumps(commands)]
    process = subprocess.Popen(words, env=cli.env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = bytearray()
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:  # Linux reports the end of a terminal as an error
        pass
    os.close(ours)
    *outputs, rest = output.decode().split("END\r\n")
    assert (process.wait(), rest, len(outputs)) == (0, "", len(commands)), output
    return outputs


def assert_harmless(output: str) -> None:
    assert output.strip()
    bad = {c for c in output if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")} - {"\r", "\n", "\t"}
    assert bad == set()
    assert "Traceback" not in output


def test_json_lines_name_every_file_to_the_byte(cli: CliRunner) -> None:
    rows = cli.producer("export").lines
    assert sorted(map(path_bytes, rows)) == sorted(PATHS)
    assert {row["caption"] for row in rows} == {CAPTION, None}
    assert {row["error"] for row in rows} == {f"unreadable: {DETAIL}", None}


def test_csv_names_every_file_to_the_byte_and_no_cell_is_a_formula(cli: CliRunner, tmp_path: Path) -> None:
    assert cli.producer("export", "--format", "csv", "-o", str(tmp_path / "out.csv")).code == 0
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(map(path_bytes, rows)) == sorted(PATHS)
    assert {row["caption"] for row in rows} == {"'" + CAPTION, ""}
    assert {row["error"] for row in rows} == {f"unreadable: {DETAIL}", ""}
    for row in rows:
        assert not any(value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for value in row.values())


def test_failures_are_the_same_in_csv_and_json(cli: CliRunner) -> None:
    as_json = cli.producer("failures", "--json").json
    raw = subprocess.run([PRODUCER, "failures", "--csv"], env=cli.env, capture_output=True, check=True).stdout
    as_csv = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    assert [row["path"] for row in as_csv] == [row["path"] for row in as_json]
    assert {row["path"] for row in as_csv} == {text_of(path) for path in PATHS} - {
        row["path"] for row in cli.producer("export").lines if row["status"] != "failed"
    }
    assert {row["detail"] for row in as_csv} == {"'" + DETAIL}
    assert {row["detail"] for row in as_json} == {DETAIL}


COMMANDS = (
    ("export",),
    ("export", "--format", "csv"),
    ("failures",),
    ("failures", "--csv"),
    ("search", "dog"),
    ("jobs",),
    ("status",),
    ("show", os.fsdecode(PATHS[1])),
    ("show", os.fsdecode(PATHS[10])),
    ("show", "/not/there\x1b[2J\u202e"),
    ("submit", "/not/there\x1b[2J\u202e\udce9"),
    ("export", "-o", "/not/there\x1b[2J/x"),
)


def test_no_control_character_reaches_a_terminal(cli: CliRunner) -> None:
    for output in run_on_a_terminal(cli, *COMMANDS):
        assert_harmless(output)


def test_a_line_feed_in_a_name_does_not_start_a_row(cli: CliRunner) -> None:
    assert len(cli.producer("failures").out.splitlines()) == 1 + len(NAMES) // 2
    assert len(cli.producer("export").out.splitlines()) == len(NAMES)


def test_a_stalled_job_names_its_root_harmlessly(cli: CliRunner) -> None:
    db = Database(read_settings(data_dir=cli.data).store_url)
    digests = tuple(bundle.digest for bundle in find_bundles().values())
    workers.heartbeat(db, WorkerInfo("w", "host", digests, "torch"), roots=[])
    (output,) = run_on_a_terminal(cli, ("status",))
    assert_harmless(output)
    assert "no worker sees the root" in output
    workers.heartbeat(db, WorkerInfo("w", "host", (), "torch"), roots=[])
    db.close()
    assert "no worker has the job's model, lstm" in run_on_a_terminal(cli, ("status",))[0]
