"""The installed program `producer`: help, error messages, exit codes and answers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioning.bundles import BUILT_IN
from captioning.store.captions import EXPORT_FIELDS, LATER_FIELDS
from captioning.store.database import Database
from tests.journeys.cli_runner import CliRunner
from tests.support.cli_server import cli_server

pytestmark = pytest.mark.processes

PRODUCER = Path(sys.executable).with_name("producer")


@pytest.fixture
def captioned_cli(cli: CliRunner, captioned_store: object) -> CliRunner:
    """The programs, with ten captioned photographs."""
    return cli


def test_every_command_that_only_reads_works_without_torch(
    captioned_cli: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "without"
    for name in ("torch", "torchvision", "openvino"):
        (broken / name).mkdir(parents=True)
        (broken / name / "__init__.py").write_text(f"raise ModuleNotFoundError('not installed', name={name!r})")
    with cli_server(PYTHONPATH=str(broken)) as server:
        for arguments in (
            ["--help"], ["submit", "--dry-run", str(photographs)], ["status"], ["jobs"], ["search", "dog"], ["export"],
            ["show", str(photographs / "coffee.png")], ["failures"], ["models"], ["doctor"], ["db", "current"],
            ["submit", str(photographs)],
        ):  # fmt: skip
            code, _, err = server.run("producer", arguments, captioned_cli.env)
            assert code == 0, (arguments, err)
        for program in ("training", "worker"):
            assert server.run(program, ["--help"], captioned_cli.env)[0] == 0


def test_search_finds_other_endings_and_prints_export_lines_as_json(captioned_cli: CliRunner) -> None:
    rows = captioned_cli.producer("search", "dog", "--json").json
    assert len(rows) == 10
    assert tuple(rows[0]) == (*EXPORT_FIELDS, *LATER_FIELDS[1:])
    limited = captioned_cli.producer("search", "dog", "--limit", "2")
    assert "two dogs run past image" in limited.out
    assert limited.err == "2 of 10; --limit shows more\n"
    nothing = captioned_cli.producer("search", "zebra")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nothing found\n")


def test_a_search_before_the_first_submit_says_so(cli: CliRunner) -> None:
    nothing = cli.producer("search", "zebra")
    assert nothing.code == 0
    assert nothing.err.endswith("nothing is captioned yet: `producer submit FOLDER` captions the images of a folder.\n")


def test_a_dry_run_counts_and_writes_nothing(cli: CliRunner, photographs: Path) -> None:
    result = cli.producer("submit", "--dry-run", "--json", str(photographs))
    counts = {
        "scanned": 10,
        "new": 10,
        "known": 0,
        "failed_before": 0,
        "possible_copies": 0,
        "skipped": 0,
        "skipped_kinds": {},
    }
    assert result.json == counts
    limited = cli.producer("submit", "--dry-run", "--limit", "1", str(photographs))
    assert limited.out == "1 image would be submitted: 1 new\n"
    assert not cli.data.exists()


def test_a_dry_run_tells_new_images_from_known_ones(
    captioned_cli: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "new.jpg").write_bytes(b"another size")
    paths = [str(photographs), str(tmp_path / "new.jpg")]
    result = captioned_cli.producer("submit", "--dry-run", *paths)
    assert result.out == "11 images would be submitted: 1 new, 10 already captioned\n"
    nothing = captioned_cli.producer("submit", "--dry-run", str(photographs))
    assert nothing.out == "10 images found, nothing to do: 10 already captioned\n"
    others = captioned_cli.producer("submit", "--dry-run", *paths, "--beam-size", "1")
    assert others.out.endswith("\n10 images have captions made with other options; --force redoes them\n")
    forced = captioned_cli.producer("submit", "--dry-run", *paths, "--force").out
    assert forced == "11 images would be submitted: 11 new\n"
    assert [job["job"] for job in captioned_cli.producer("jobs", "--json").json] == [1]


def test_a_dry_run_without_the_database_counts_images(cli: CliRunner, photographs: Path) -> None:
    cli.environment["CAPTIONING_DATABASE_URL"] = "postgresql://nobody:pw@127.0.0.1:9/x"
    result = cli.producer("submit", "--dry-run", str(photographs))
    assert (result.code, result.out) == (0, "10 images would be submitted\n")
    assert result.err.startswith("producer: new and known images cannot be counted separately: the database ")


def test_a_submit_says_when_options_are_ignored_for_known_images(captioned_cli: CliRunner, photographs: Path) -> None:
    line = "10 images have captions made with other options; --force redoes them\n"
    assert captioned_cli.producer("submit", str(photographs), "--beam-size", "1").err == line
    assert captioned_cli.producer("submit", str(photographs)).err == ""


def test_a_submit_of_known_images_has_all_fields_and_exits_with_0(captioned_cli: CliRunner, photographs: Path) -> None:
    result = captioned_cli.producer("submit", str(photographs), "--wait", "--json")
    assert result.code == 0
    assert tuple(result.json) == (
        "job", "scanned", "new", "known", "failed_before", "reused", "captioned", "failed", "skipped", "model_runs",
        "seconds", "state",
        "skipped_kinds", "missing", "unreachable",
    )  # fmt: skip
    assert (result.json["scanned"], result.json["known"], result.json["state"]) == (10, 10, "done")
    text = captioned_cli.producer("submit", str(photographs)).out
    assert "10 already captioned\n" in text
    assert f"producer show {photographs}\n" in text
    assert str(captioned_cli.data / "captions.sqlite") in text


def test_a_submit_without_a_broker_that_answers_queues_and_warns_in_one_line(cli: CliRunner, photographs: Path) -> None:
    cli.environment["CAPTIONING_BROKER_URL"] = "redis://127.0.0.1:9/0"
    result = cli.producer("submit", str(photographs / "coffee.png"))
    assert result.code == 0
    assert result.out == "job 1: 1 image queued; producer status 1 --watch\n"
    assert result.err.startswith("producer: the broker does not answer")
    assert result.err.count("\n") == 1
    assert "no worker is running: start one with `worker`" in cli.producer("status").out


def test_the_same_submit_says_that_its_job_goes_on(cli: CliRunner, photographs: Path) -> None:
    cli.environment["CAPTIONING_BROKER_URL"] = "redis+socket:///none"
    assert "continues" not in cli.producer("submit", str(photographs)).err
    assert cli.producer("submit", str(photographs)).err.startswith("job 1 continues: 0 of 10 done\n")


def test_names_and_filters_may_be_any_bytes(cli: CliRunner, photographs: Path) -> None:
    cli.environment["CAPTIONING_BROKER_URL"] = "redis://127.0.0.1:9/0"
    result = cli.producer("submit", str(photographs), "--name", b"caf\xe9", "--exclude", b"\xff*")
    assert result.code == 0
    assert [job["name"] for job in cli.producer("jobs", "--json").json] == ["caf%E9"]


def test_paths_can_come_from_standard_input(cli: CliRunner, photographs: Path) -> None:
    cli.in_process = False  # it is read from the descriptor
    paths = "\n".join(str(path) for path in sorted(photographs.iterdir())[:4])
    result = cli.producer("submit", "--from-file", "-", "--dry-run", "--json", stdin=paths)
    assert result.json["scanned"] == 4


def test_status_jobs_and_show_agree(captioned_cli: CliRunner, photographs: Path) -> None:
    status = captioned_cli.producer("status", "--json").json
    assert (status["state"], status["new"], status["captioned"], status["diagnosis"]) == ("done", 10, 10, [])
    assert "10 images: 10 captioned\n" in captioned_cli.producer("status").out
    assert [job["job"] for job in captioned_cli.producer("jobs", "--json").json] == [1]
    text = captioned_cli.producer("show", str(photographs / "coffee.png")).out
    assert "two dogs run past image" in text
    assert "lstm" in text
    assert "word by word: two " in text
    words = captioned_cli.producer("show", str(photographs / "coffee.png"), "--json").json["captions"][0]["words"]
    assert [one["word"] for one in words][:2] == ["two", "dogs"]
    assert all(0 <= one["confidence"] <= 1 for one in words)
    assert captioned_cli.producer("pause", "1").out == "job 1 is done already: nothing changed\n"


def test_an_export_to_a_file_leaves_no_other_file_behind(captioned_cli: CliRunner, tmp_path: Path) -> None:
    output = tmp_path / "captions.csv"
    result = captioned_cli.producer("export", "--format", "csv", "-o", str(output))
    assert (result.code, result.err) == (0, f"10 rows in {output}\n")
    lines = output.read_text().splitlines()
    assert lines[0].startswith("path,sha256,caption,confidence")
    assert len(lines) == 11
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_name_of_a_format_may_be_written_in_capitals(captioned_cli: CliRunner) -> None:
    assert captioned_cli.producer("export", "--format", "CSV").out.startswith("path,sha256,")


def test_an_export_says_what_it_left_out(captioned_cli: CliRunner, photographs: Path) -> None:
    assert captioned_cli.producer("export", "1").err == ""
    assert captioned_cli.producer("submit", str(photographs)).code == 0
    known = captioned_cli.producer("export", "2")
    assert (known.code, known.out) == (0, "")
    assert known.err.startswith(
        "without 10 images that were captioned before job 2; `producer export` without a number"
    )
    nothing = captioned_cli.producer("export", "--min-confidence", "1", "--where", "zebra")
    assert nothing.err == "nothing to export: no image fits --where, --min-confidence\n"


def test_an_empty_database_has_nothing_to_export(cli: CliRunner) -> None:
    assert (
        cli.producer("export").err
        == "nothing to export: nothing was submitted yet, `producer submit FOLDER` captions the images of a folder\n"
    )


def test_files_that_are_gone_are_left_out_until_they_are_asked_for(
    captioned_cli: CliRunner, captioned_store: Database, photographs: Path
) -> None:
    with captioned_store.writing() as connection:
        connection.exec_driver_sql("UPDATE files SET missing_since = 1.0 WHERE path = 'coffee.png'")
    for verb in (["export"], ["search", "dogs"]):
        assert "coffee.png" not in captioned_cli.producer(*verb).out
        assert "coffee.png" in captioned_cli.producer(*verb, "--missing").out
    assert "coffee.png" not in captioned_cli.producer("show", str(photographs)).out
    with captioned_store.writing() as connection:
        connection.exec_driver_sql("UPDATE files SET missing_since = 1.0")
    nothing = captioned_cli.producer("export")
    assert (nothing.out, nothing.err) == (
        "", "nothing to export: all such files are gone from the disk; --missing has them\n",
    )  # fmt: skip
    assert captioned_cli.producer("show", str(photographs)).out.count("(missing)") == 10


def test_show_lists_the_images_of_a_folder(captioned_cli: CliRunner, photographs: Path, tmp_path: Path) -> None:
    all_of_it = captioned_cli.producer("show", str(photographs))
    assert (all_of_it.code, all_of_it.err) == (0, "")
    assert all_of_it.out.count("two dogs run past image") == 10
    limited = captioned_cli.producer("show", str(photographs.parent), "--limit", "2")
    assert limited.out.count(str(photographs)) == 2
    assert limited.err == "the first 2; --limit shows more, `producer export` has all\n"
    assert len(captioned_cli.producer("show", str(photographs), "--json").json) == 10
    (tmp_path / "other").mkdir()
    other = captioned_cli.producer("show", str(tmp_path / "other"))
    assert other.code == 2
    assert other.err.startswith(f"producer: no image below the folder {tmp_path / 'other'} is registered")


def test_an_export_can_be_written_to_a_device_or_a_pipe(captioned_cli: CliRunner) -> None:
    captioned_cli.in_process = False  # for a standard output that is a file
    assert captioned_cli.producer("export", "-o", "/dev/null").code == 0
    assert not Path("/dev/null").is_file()
    assert len(captioned_cli.producer("export", "-o", "/dev/stdout").lines) == 10


def test_a_pipe_that_is_closed_early_is_not_an_error(captioned_cli: CliRunner) -> None:
    result = subprocess.run(
        f"{PRODUCER} export | head -n 1",
        shell=True,
        env=captioned_cli.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1


def test_the_exit_code_is_0_when_nobody_reads_the_output(captioned_cli: CliRunner) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([PRODUCER, "export"], env=captioned_cli.env, stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 0


def test_the_doctor_finds_a_damaged_model(cli: CliRunner, tmp_path: Path) -> None:
    assert cli.producer("doctor").code == 0
    shutil.copytree(BUILT_IN, tmp_path / "damaged")
    (tmp_path / "damaged" / "lstm" / "decoder.safetensors").write_bytes(b"no")
    cli.environment["CAPTIONING_BUNDLES"] = str(tmp_path / "damaged")
    result = cli.producer("doctor", "--json")
    assert result.code == 1
    assert [check["name"] for check in result.json if not check["ok"]] == ["model"]


def test_a_damaged_database_is_reported(cli: CliRunner) -> None:
    cli.data.mkdir()
    (cli.data / "captions.sqlite").write_bytes(b"not a database, in spite of its name" * 100)
    result = cli.producer("jobs")
    assert result.code == 1
    assert "is damaged: file is not a database. Restore a copy" in result.err
    assert result.err.count("\n") == 1
    assert "BAD" in cli.producer("doctor").out


def test_a_broken_bundle_does_not_hide_the_others(cli: CliRunner) -> None:
    for name, text in (("truncated", "{"), ("incomplete", '{"format": 1, "name": "incomplete"}')):
        (cli.data / "models" / name).mkdir(parents=True)
        (cli.data / "models" / name / "bundle.json").write_text(text)
    result = cli.producer("models", "--json")
    assert [model["name"] for model in result.json] == ["gru", "lstm"]
    assert [line.partition(": ")[0] for line in result.err.splitlines()] == ["left out", "left out"]
    assert json.dumps(result.json).count('"default": true') == 1


def test_a_file_in_nested_roots_has_one_row(cli: CliRunner, photographs: Path, tmp_path: Path) -> None:
    shutil.copytree(photographs, tmp_path / "photos" / "sub")
    shutil.copy(photographs / "coffee.png", tmp_path / "photos" / "top.png")
    cli.environment["CAPTIONING_BROKER_URL"] = "redis+socket:///none"  # rows are committed, no worker comes
    for path in ("photos/sub", "photos", "photos/sub/coffee.png"):
        assert cli.producer("submit", str(tmp_path / path)).code == 0
    paths = [row["path"] for row in cli.producer("export").lines]
    assert len(paths) == len(set(paths)) == 11


def test_closed_streams_and_full_disks_are_not_internal_errors(captioned_cli: CliRunner) -> None:
    for line, code in ((f"{PRODUCER} jobs >&-", 0), (f"{PRODUCER} export > /dev/full", 1)):
        result = subprocess.run(line, shell=True, env=captioned_cli.env, capture_output=True, text=True, check=False)
        assert result.returncode == code, result
        assert "internal error" not in result.stderr
        assert "Traceback" not in result.stderr
