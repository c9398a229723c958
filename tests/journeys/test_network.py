"""Nothing that we start speaks to an address that nobody configured, or writes into the home folder.

A `sitecustomize` on PYTHONPATH, which every Python process imports at its start, records and refuses what would leave
this machine. So the test holds for every library that is added later.
"""

from pathlib import Path

import pytest

from tests.journeys.cli_runner import CliRunner
from tests.support.cli_server import cli_server

RECORDER = """
import os, sys

LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")

def refuse(event, arguments):
    if event in LOOK_UPS:
        outside = arguments[0] not in (None, "localhost", b"localhost", "127.0.0.1", "::1")
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        outside = isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost"))
    else:
        return
    if outside:
        with open(os.environ["RECORD"], "a") as record:
            record.write(f"{event} {arguments!r} {sys.argv}\\n")
        raise OSError("refused by the test")

sys.addaudithook(refuse)
with open(os.environ["RECORD"] + ".processes", "a") as processes:
    processes.write(f"{sys.argv}\\n")
"""


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """The programs, in a home folder of their own, with a recorder in every Python process."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(RECORDER)
    (tmp_path / "home").mkdir()
    monkeypatch.delenv("CI", raising=False)  # OpenVINO's telemetry is silent there
    environment = {"PYTHONPATH": str(hook), "RECORD": str(tmp_path / "record"), "HOME": str(tmp_path / "home")}
    return CliRunner(tmp_path / "data", environment)


def test_no_program_speaks_to_the_network_or_writes_into_the_home_folder(
    recording: CliRunner, photographs: Path, tmp_path: Path
) -> None:
    """Submit compiles the model: a folder of compiled ones would hide what conversion does."""
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(photographs.iterdir())[:2]:
        (images / path.name).write_bytes(path.read_bytes())
    names = [path.name for path in images.iterdir()]
    (images / "captions.txt").write_text("image,caption\n" + "".join(f"{name},A photograph .\n" for name in names))
    commands: list[tuple[str, ...]] = [
        ("producer", "submit", str(images)),
        ("producer", "doctor"),
        ("producer", "export", "-o", str(tmp_path / "captions.jsonl")),
        ("worker", "doctor"),
    ]
    for command in commands:
        result = recording.run(*command)
        assert result.code == 0, result
    (images / "Flickr_8k.trainImages.txt").write_text(names[0])
    (images / "Flickr_8k.devImages.txt").write_text(names[1])
    corpus = ("--data", str(images), "--cache", str(tmp_path / "cache"))
    run = ("--run", str(tmp_path / "run"), "--encoder", "lstm")
    small = ("--epochs", "1", "--set", "hidden_size=64", "--set", "memory_size=64", "--set", "min_count=1")
    with cli_server(PYTHONPATH=recording.env["PYTHONPATH"], RECORD=recording.env["RECORD"]) as server:
        for words in (
            ("evaluate", "lstm", *corpus),
            ("train", *run, *corpus, *small),
            ("export", *run, *corpus[2:], "--name", "mine", "-o", str(tmp_path / "bundles")),
        ):
            code, _, errors = server.run("training", words, recording.env)
            assert code == 0, errors
    record = tmp_path / "record"
    assert not record.exists(), record.read_text()
    processes = (tmp_path / "record.processes").read_text()
    for program in ("supervisor", "billiard", "worker", "-m"):  # the recorder was in all of them
        assert program in processes
    assert not list((tmp_path / "home").iterdir())
