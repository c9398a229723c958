"""Words on the command line: every command explains itself, every mistake gets one line and the right exit code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioning.store import leases
from captioning.store.database import Database
from captioning.terminal import printable
from producer.export import export
from tests.journeys.cli_runner import CliRunner
from tests.store.helpers import LSTM, World, captioned

COMMANDS = (
    "submit", "status", "jobs", "pause", "resume", "cancel", "failures", "retry", "search", "show", "export", "models",
    "doctor", "db", "db upgrade", "db current",
)  # fmt: skip


@pytest.fixture
def person(tmp_path: Path) -> CliRunner:
    return CliRunner(tmp_path / "data")


@pytest.fixture
def served(person: CliRunner, photographs: Path) -> CliRunner:
    """A person whose photographs have captions, without a model having run."""
    import migrations
    from captioning.settings import read_settings
    from captioning.values import DecodeOptions
    from producer import submit
    from producer.sources import Filters, read_sources

    settings = read_settings(data_dir=person.data)
    db = Database.open(settings)
    migrations.ensure_schema(db)
    order = submit.SubmitRequest(read_sources([os.fsencode(photographs)]), Filters(), LSTM, DecodeOptions())
    submit.submit(db, settings, order, lambda _: None)
    world = World(db, os.fsencode(photographs))
    claim = world.claim()
    assert claim is not None
    world.record(claim, [captioned(work, f"two dogs run past image {i}") for i, work in enumerate(claim.work)])
    leases.complete(db, claim)
    db.close()
    return person


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_ends_with_an_example(person: CliRunner, command: str) -> None:
    said = person.producer(*command.split(), "--help")
    assert said.code == 0
    assert command == "db" or "Example: producer" in said.out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["submit"], 2, "no paths given"),
        (["submit", ""], 2, "an empty path was given"),
        (["submit", ".", "--stale", "--force"], 2, "exclude each other"),
        (["status", "99999999999999999999"], 2, "less than or equal to"),
        (["search", "dog", "--limit", "99999999999999999999"], 2, "limit"),
        (["export", "-o", ""], 2, "-o needs a file's name"),
        (["export", "--model", "blip"], 2, "no model named 'blip'"),
        (["submit", "/no/such/folder"], 2, "/no/such/folder: no such file or folder"),
        (["submit", ".", "--priority", "urgent"], 2, "--priority is normal or high, not 'urgent'"),
        (["submit", ".", "--model", "blip"], 2, "no model named 'blip'"),
        (["submit", ".", "--beam-size", "0"], 2, "beam-size"),
        (["submit", "--from-file", "/no/list"], 2, "can't read the list /no/list"),
        (["submit", "EMPTY"], 2, "no images found"),
        (["submit", "EMPTY", "--dry-run"], 2, "no images found"),
        (["submitt"], 2, "No such command"),
        (["status"], 2, "there are no jobs yet"),
        (["status", "7"], 2, "there is no job 7"),
        (["status", "seven"], 2, "unable to parse string as an integer"),
        (["pause", "7"], 2, "there is no job 7"),
        (["resume", "7"], 2, "there is no job 7"),
        (["cancel", "7"], 2, "there is no job 7"),
        (["retry", "7"], 2, "say what to retry"),
        (["retry", "7", "--failed"], 2, "there is no job 7"),
        (["retry", "7", "--failed", "--reason", "rain"], 2, "there is no reason 'rain'"),
        (["failures", "7"], 2, "there is no job 7"),
        (["export", "7"], 2, "there is no job 7"),
        (["export", "--format", "xml"], 2, "--format is jsonl or csv, not 'xml'"),
        (["export", "-o", "/no/such/folder/x"], 2, "can't write to /no/such/folder/x"),
        (["show", "nothing.jpg"], 2, "nothing.jpg is not registered"),
        (["search", "--", "-dog"], 2, "give at least one word"),
        (["search"], 2, "TEXT"),
        (["db"], 2, ""),
    ],
)
def test_a_mistake_gets_one_line_and_the_right_exit_code(
    person: CliRunner, tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.txt").touch()
    said = person.producer(*(word.replace("EMPTY", str(tmp_path / "empty")) for word in words))
    assert said.code == code, said
    assert says in said.err + said.out
    assert "Traceback" not in said.err
    if says:
        assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CAPTIONING_CHUNK_SIZE", "many", "CAPTIONING_CHUNK_SIZE=many"),
        ("CAPTIONING_RUNTIME", "cuda", "CAPTIONING_RUNTIME=cuda"),
        ("CAPTIONING_ROOTS", "photos", "CAPTIONING_ROOTS=photos"),
        ("CAPTIONING_DATABASE_URL", "not a url", "CAPTIONING_DATABASE_URL is not a database URL"),
        ("CAPTIONING_DATABASE_URL", "oracle://x", "the store runs on PostgreSQL and SQLite"),
        ("CAPTIONING_DATABASE_URL", "sqlite:////proc/nowhere/x", "can't make the folder"),
        ("CAPTIONING_DATABASE_URL", "sqlite://", "name a file"),
        ("CAPTIONING_DATABASE_URL", "sqlite:////tmp/x?y=1", "takes a path, no options"),
        ("CAPTIONING_DATABASE_URL", "sqlite:////tmp/%00", "takes a path, no options"),
        ("CAPTIONING_DATABASE_URL", "postgresql+asyncpg://u@h/x", "write postgresql+psycopg://"),
        ("CAPTIONING_DATABASE_URL", "postgresql://u@h/x?foo=x", 'invalid connection option "foo"'),
        ("CAPTIONING_DATABASE_URL", "postgresql://u@/x?host=h&port=b", "non-integer port"),
        ("CAPTIONING_DATABASE_URL", "postgresql://u:%00@h/x", "%00 stands for nothing"),
        ("CAPTIONING_DATABASE_URL", "postgresql://u:\udcff@h/x", "not text in UTF-8"),
        ("CAPTIONING_DATABASE_URL", "postgresql://u:pw@h:abc/x", "is no port"),
        ("CAPTIONING_BROKER_URL", "http://u:pw@h", "write it as redis://"),
        ("CAPTIONING_BROKER_URL", "redis://h:abc", "is no port"),
        ("CAPTIONING_BROKER_URL", "redis://h/first", "is a number"),
        ("CAPTIONING_BROKER_URL", "redis://h/²", "is a number"),
        ("CAPTIONING_BROKER_URL", "redis://u:12#pw@127.0.0.1:1/0", "must be percent-quoted"),
        ("CAPTIONING_BROKER_URL", "redis+socket://", "names no socket"),
        ("CAPTIONING_BELLS", "1000000000", "CAPTIONING_BELLS=1000000000"),
        ("CAPTIONING_MAX_PIXELS", "10000000000000000000", "CAPTIONING_MAX_PIXELS=10000000000000000000"),
        ("CAPTIONING_DATA_DIR", "~nobody-of-that-name/x", "no such user"),
        ("CAPTIONING_DATABASE_URL", "postgresql://nobody:pw@127.0.0.1:9/x", "doesn't answer"),
    ],
)
def test_a_wrong_setting_is_named(person: CliRunner, photographs: Path, name: str, value: str, says: str) -> None:
    person.environment[name] = value
    said = person.producer("jobs")
    assert said.code in (1, 2)
    assert says in said.err
    assert said.err.count("\n") == 1
    assert "pw@" not in said.err


def test_reading_works_without_torch(served: CliRunner, photographs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "without"
    for name in ("torch", "torchvision", "openvino"):
        (broken / name).mkdir(parents=True)
        (broken / name / "__init__.py").write_text(f"raise ModuleNotFoundError('none here', name={name!r})")
    served.environment["PYTHONPATH"] = str(broken)
    image = str(photographs / "coffee.png")
    for words in (
        ["--help"], ["submit", "--dry-run", str(photographs)], ["status"], ["jobs"], ["search", "dog"], ["export"],
        ["show", image], ["failures"], ["models"], ["doctor"], ["db", "current"], ["submit", str(photographs)],
    ):  # fmt: skip
        said = served.producer(*words)
        assert said.code == 0, said
    assert served.run("training", "--help").code == 0
    assert served.run("worker", "--help").code == 0


def test_search_finds_other_endings_and_json_is_an_export_line(served: CliRunner) -> None:
    rows = served.producer("search", "dog", "--json").json
    assert len(rows) == 10
    assert {
        "path",
        "sha256",
        "caption",
        "confidence",
        "model",
        "width",
        "height",
        "status",
        "error",
        "captioned_at",
    } == set(rows[0])
    assert "two dogs run past image" in served.producer("search", "dog", "--limit", "2").out
    assert served.producer("search", "zebra").code == 0


def test_dry_run_counts_and_writes_nothing(person: CliRunner, photographs: Path) -> None:
    said = person.producer("submit", "--dry-run", "--json", str(photographs))
    assert said.json == {"scanned": 10, "skipped": 0, "skipped_kinds": {}}
    assert person.producer("submit", "--dry-run", "--limit", "3", str(photographs)).out.startswith("3 images")
    assert not person.data.exists()


def test_names_and_filters_may_be_any_bytes(person: CliRunner, photographs: Path) -> None:
    person.environment["CAPTIONING_BROKER_URL"] = "redis://127.0.0.1:9/0"
    said = person.producer("submit", str(photographs), "--name", b"caf\xe9", "--exclude", b"\xff*")
    assert said.code == 0
    assert [job["name"] for job in person.producer("jobs", "--json").json] == ["caf%E9"]


def test_paths_come_from_a_list_on_standard_input(person: CliRunner, photographs: Path) -> None:
    listed = "\n".join(str(p) for p in sorted(photographs.iterdir())[:4])
    said = person.producer("submit", "--from-file", "-", "--dry-run", "--json", stdin=listed)
    assert said.json["scanned"] == 4


def test_status_jobs_and_show_tell_the_same_story(served: CliRunner, photographs: Path) -> None:
    status = served.producer("status", "--json").json
    assert (status["state"], status["new"], status["captioned"]) == ("done", 10, 10)
    assert [job["job"] for job in served.producer("jobs", "--json").json] == [1]
    shown = served.producer("show", str(photographs / "coffee.png"))
    assert "two dogs run past image" in shown.out
    assert "flickr8k-lstm" in shown.out
    assert "word by word: two " in shown.out
    words = served.producer("show", str(photographs / "coffee.png"), "--json").json["captions"][0]["words"]
    assert [one["word"] for one in words][:2] == ["two", "dogs"]
    assert all(0 <= one["confidence"] <= 1 for one in words)
    assert served.producer("pause", "1").out == "job 1 is done already: nothing changed\n"


def test_exports_to_a_file_appear_whole(served: CliRunner, tmp_path: Path) -> None:
    out = tmp_path / "captions.csv"
    assert served.producer("export", "--format", "csv", "-o", str(out)).code == 0
    lines = out.read_text().splitlines()
    assert lines[0].startswith("path,sha256,caption,confidence")
    assert len(lines) == 11
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_cell_that_a_spreadsheet_would_run_is_made_harmless(tmp_path: Path) -> None:
    from captioning.store.captions import Image

    bad = Image("=cmd()", b"=cmd()", None, "@SUM(A1)", 0.5, "m", "machine", 1, 1, "captioned", None, None)
    export([bad], "csv", str(tmp_path / "x.csv"))
    assert (tmp_path / "x.csv").read_text().splitlines()[1].startswith("'=cmd(),,'@SUM(A1),0.5")
    export([bad], "jsonl", str(tmp_path / "x.jsonl"))
    assert json.loads((tmp_path / "x.jsonl").read_text())["path"] == "=cmd()"


def test_a_reader_that_stops_reading_is_no_error(served: CliRunner) -> None:
    producer = Path(sys.executable).with_name("producer")
    done = subprocess.run(
        f"{producer} export | head -n 1", shell=True, env=served.env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_control_characters_in_names_never_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\x07") == "a\\x1b[31mb\\nc\\x07"


def test_the_doctor_finds_a_spoilt_model(person: CliRunner, tmp_path: Path) -> None:
    assert person.producer("doctor").code == 0
    from captioning.bundles import BUILT_IN

    shutil.copytree(BUILT_IN, tmp_path / "spoilt")
    (tmp_path / "spoilt" / "flickr8k-lstm" / "decoder.safetensors").write_bytes(b"no")
    person.environment["CAPTIONING_BUNDLES"] = str(tmp_path / "spoilt")
    said = person.producer("doctor", "--json")
    assert said.code == 1
    assert [f["what"] for f in said.json if not f["good"]] == ["model"]


def test_a_damaged_database_says_so(person: CliRunner) -> None:
    person.data.mkdir()
    (person.data / "captions.sqlite").write_bytes(b"not a database, whatever its name says" * 100)
    said = person.producer("jobs")
    assert said.code == 1
    assert "is damaged: restore a copy" in said.err
    assert said.err.count("\n") == 1
    assert "BAD" in person.producer("doctor").out


def test_one_broken_bundle_does_not_take_the_others_away(person: CliRunner) -> None:
    for name, text in (("cut", "{"), ("odd", '{"format": 1, "name": "odd"}')):
        (person.data / "models" / name).mkdir(parents=True)
        (person.data / "models" / name / "bundle.json").write_text(text)
    said = person.producer("models", "--json")
    assert [m["name"] for m in said.json] == ["flickr8k-gru", "flickr8k-lstm"]
    assert said.err.count("left out:") == 2


def test_a_folder_inside_a_later_root_keeps_one_row_a_file(person: CliRunner, photographs: Path, tmp_path: Path) -> None:
    shutil.copytree(photographs, tmp_path / "photos" / "sub")
    shutil.copy(photographs / "coffee.png", tmp_path / "photos" / "top.png")
    person.environment["CAPTIONING_BROKER_URL"] = "redis+socket:///none"  # rows are committed, nobody comes
    for place in ("photos/sub", "photos", "photos/sub/coffee.png"):
        assert person.producer("submit", str(tmp_path / place)).code == 0
    paths = [row["path"] for row in person.producer("export").lines]
    assert len(paths) == len(set(paths)) == 11


def test_an_export_goes_through_a_link_and_into_a_pipe(served: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    assert served.producer("export", "-o", str(tmp_path / "link.jsonl")).code == 0
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len((tmp_path / "real.jsonl").read_text().splitlines()) == 10
    assert served.producer("export", "-o", "/dev/null").code == 0
    assert not Path("/dev/null").is_file()
    assert len(served.producer("export", "-o", "/dev/stdout").lines) == 10


def test_an_export_over_a_private_file_stays_private_and_its_name_may_be_long(served: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / ("l" * 249 + ".jsonl")
    path.touch(mode=0o600)
    assert served.producer("export", "-o", str(path)).code == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_closed_streams_and_full_disks_are_no_internal_errors(served: CliRunner) -> None:
    producer = Path(sys.executable).with_name("producer")
    for line, code in ((f"{producer} jobs >&-", 0), (f"{producer} export > /dev/full", 1)):
        done = subprocess.run(line, shell=True, env=served.env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done
        assert "internal error" not in done.stderr
        assert "Traceback" not in done.stderr
