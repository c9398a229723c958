"""Help, wrong usage and invalid settings of `producer`: one line and the right exit code."""

from pathlib import Path

import pytest

from tests.journeys.cli_runner import CliRunner

COMMANDS = (
    "submit", "status", "jobs", "pause", "resume", "cancel", "failures", "retry", "search", "show", "export", "models",
    "doctor", "db", "db upgrade", "db current",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_ends_with_an_example(cli: CliRunner, command: str) -> None:
    result = cli.producer(*command.split(), "--help")
    assert result.code == 0
    assert command == "db" or "Example: producer" in result.out


def test_help_shows_the_choices(cli: CliRunner) -> None:
    cli.environment["COLUMNS"] = "200"
    assert "<normal|high>" in cli.producer("submit", "--help").out
    assert "jsonl, csv, parquet" in cli.producer("export", "--help").out
    assert "unreadable, truncated, " in cli.producer("retry", "--help").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["submit"], 2, "no paths given"),
        (["submit", ""], 2, "an empty path was given"),
        (["submit", ".", "--stale", "--force"], 2, "exclude each other"),
        (["submit", ".", "-0"], 2, "-0 describes the list of --from-file"),
        (["status", "99999999999999999999"], 2, "'JOB': '99999999999999999999' is more than 2147483647"),
        (["search", "dog", "--limit", "0"], 2, "'--limit': '0' is less than 1; see `producer search -h`."),
        (["export", "-o", ""], 2, "-o needs a name"),
        (["export", "--model", "blip"], 2, "no model named 'blip'"),
        (["submit", "/no/such/folder"], 2, "/no/such/folder: no such file or folder"),
        (["submit", ".", "--priority", "urgent"], 2, "'urgent' is not one of 'normal', 'high'"),
        (["submit", ".", "--model", "blip"], 2, "no model named 'blip'"),
        (["submit", ".", "--beam-size", "0"], 2, "beam-size"),
        (["submit", "--from-file", "/no/list"], 2, "cannot read the list /no/list"),
        (["submit", "EMPTY"], 2, "no images found (skipped: 1 .txt file)"),
        (["submit", "EMPTY", "--dry-run"], 2, "no images found"),
        (["submitt"], 2, "No such command 'submitt'. Did you mean 'submit'? See `producer -h`."),
        (["export", "--min-confidence", "nan"], 2, "'nan' is more than 1"),
        (["export", "--min-confidence", "high"], 2, "'high' is not a number"),
        (["pause"], 2, "Missing argument 'JOB'; see `producer pause -h`."),
        (["status"], 2, "there are no jobs yet"),
        (["status", "7"], 2, "there is no job 7"),
        (["status", "seven"], 2, "Invalid value for 'JOB': 'seven' is not a whole number"),
        (["pause", "7"], 2, "there is no job 7"),
        (["resume", "7"], 2, "there is no job 7"),
        (["cancel", "7"], 2, "there is no job 7"),
        (["retry", "7"], 2, "producer retry 7 --failed"),
        (["retry", "7", "--failed"], 2, "there is no job 7"),
        (["retry", "7", "--failed", "--reason", "rain"], 2, "'rain' is not one of 'unreadable', 'truncated'"),
        (["failures", "7"], 2, "there is no job 7"),
        (["export", "7"], 2, "there is no job 7"),
        (["export", "--format", "xml"], 2, "'xml' is not one of 'jsonl', 'csv'"),
        (["export", "-o", "/no/such/folder/x"], 2, "cannot write to /no/such/folder/x"),
        (["show", "nothing.jpg"], 2, "nothing.jpg is not registered"),
        (["search", "--", "-dog"], 2, "give at least one word"),
        (["search"], 2, "TEXT"),
        (["db"], 2, ""),
    ],
)
def test_a_mistake_gets_one_line_and_the_right_exit_code(
    cli: CliRunner, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "README.txt").touch()
    result = cli.producer(*(argument.replace("EMPTY", str(empty)) for argument in arguments))
    assert result.code == code, result
    assert message in result.err + result.out
    assert "Traceback" not in result.err
    assert "Value error" not in result.err
    if message:
        assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CAPTIONING_CHUNK_SIZE", "many", "CAPTIONING_CHUNK_SIZE=many"),
        ("CAPTIONING_RUNTIME", "cuda", "CAPTIONING_RUNTIME=cuda"),
        ("CAPTIONING_ROOTS", "photos", "CAPTIONING_ROOTS=photos"),
        ("CAPTIONING_DATABASE_URL", "not a url", "write it as postgresql+psycopg://"),
        ("CAPTIONING_DATABASE_URL", "oracle://x", "the store runs on PostgreSQL and SQLite"),
        ("CAPTIONING_DATABASE_URL", "sqlite:////proc/nowhere/x", "does not exist: run `producer db upgrade`"),
        ("CAPTIONING_DATABASE_URL", "sqlite://", "name a file"),
        ("CAPTIONING_DATABASE_URL", "sqlite:////tmp/x?y=1", "takes a path, no options"),
        ("CAPTIONING_DATABASE_URL", "sqlite:////tmp/%00", "takes a path, no options"),
        ("CAPTIONING_DATABASE_URL", "postgresql+asyncpg://u@h/x", "write postgresql+psycopg://"),
        ("CAPTIONING_DATABASE_URL", "postgresql://u@h/x?foo=x", 'invalid connection option "foo"'),
        ("CAPTIONING_DATABASE_URL", "postgresql://u@/x?host=h&port=b", "non-integer port"),
        ("CAPTIONING_DATABASE_URL", "postgresql://u:%00@h/x", "PostgreSQL accepts no %00"),
        ("CAPTIONING_DATABASE_URL", "postgresql://u:\udcff@h/x", "not UTF-8 text"),
        ("CAPTIONING_DATABASE_URL", "postgresql://u:pw@h:abc/x", "the port after the host is not a number"),
        ("CAPTIONING_BROKER_URL", "http://u:pw@h", "write it as redis://"),
        ("CAPTIONING_BROKER_URL", "redis://h:abc", "the port after the host is not a number"),
        ("CAPTIONING_BROKER_URL", "redis://h/first", "is a number"),
        ("CAPTIONING_BROKER_URL", "redis://h/²", "is a number"),
        ("CAPTIONING_BROKER_URL", "redis://u:12#pw@127.0.0.1:1/0", "with percent signs"),
        ("CAPTIONING_BROKER_URL", "redis+socket://", "names no socket"),
        ("CAPTIONING_QUEUE_WINDOW", "1000000000", "CAPTIONING_QUEUE_WINDOW=1000000000"),
        ("CAPTIONING_MAX_PIXELS", "10000000000000000000", "CAPTIONING_MAX_PIXELS=10000000000000000000"),
        ("CAPTIONING_DATA_DIR", "~nobody-of-that-name/x", "no such user"),
        ("CAPTIONING_DATABASE_URL", "postgresql://nobody:pw@127.0.0.1:9/x", "does not answer"),
    ],
)
def test_an_invalid_setting_is_named_without_its_password(cli: CliRunner, name: str, value: str, message: str) -> None:
    cli.environment[name] = value
    result = cli.producer("jobs")
    assert result.code in (1, 2)
    assert message in result.err
    assert result.err.count("\n") == 1
    assert "pw@" not in result.err
