"""Ctrl-C while a command waits on a terminal: the last line tells what becomes of the work."""

import os
import pty
import signal
from pathlib import Path

import pytest

from tests.journeys.cli_runner import CliRunner
from tests.support.ctrl_c import accept_ctrl_c

pytestmark = pytest.mark.processes


def interrupt(cli: CliRunner, *arguments: str) -> tuple[int, str]:
    """Run a command in a terminal, press Ctrl-C when it waits for a worker; return its exit code and last line."""
    master, terminal = pty.openpty()
    process = cli.start(
        "producer", *arguments, stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=accept_ctrl_c
    )
    os.close(terminal)
    written = b""
    while b"waiting for a worker" not in written:
        written += os.read(master, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while part := os.read(master, 4096):
            written += part
    except OSError:  # EIO, on Linux: the process has closed the terminal
        pass
    os.close(master)
    return process.wait(), written.decode().split("\n")[-2].strip().rpartition("producer: ")[2]


def test_a_ctrl_c_tells_what_becomes_of_the_work(cli: CliRunner, photographs: Path) -> None:
    cli.environment |= {"CAPTIONING_BROKER_URL": "redis+socket:///none", "TERM": "xterm", "COLUMNS": "120"}
    workers_go_on = (130, "interrupted; workers continue job 1: producer status 1 --watch")
    assert interrupt(cli, "submit", str(photographs), "--wait") == workers_go_on
    assert interrupt(cli, "resume", "1", "--wait") == workers_go_on
    assert interrupt(cli, "status", "--watch") == (130, "interrupted; job 1 is not affected")
