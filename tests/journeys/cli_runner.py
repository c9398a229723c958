"""Run the installed programs as a person at a terminal does, with a data folder and an environment of their own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from tests.support.in_process import run_here


@dataclass
class CliRunner:
    """Runs `producer`, `worker`, `training` and `celery`. No setting of this process reaches them.

    `with_compiled_model`: share the compiled models of other tests, because compiling one takes a while.
    `in_process`: `run` calls the program's function instead. It is many times faster, and right for all tests but those
    of what a process inherits.
    """

    data: Path  # the data folder
    environment: dict[str, str] = field(default_factory=dict)
    with_compiled_model: bool = False
    in_process: bool = False

    def __post_init__(self) -> None:
        if self.with_compiled_model:
            self.data.mkdir(parents=True, exist_ok=True)
            (self.data / "runtime").symlink_to(os.environ["CAPTIONING_TEST_RUNTIME"])

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of the programs."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CAPTIONING_")}
        return inherited | {"CAPTIONING_DATA_DIR": str(self.data)} | self.environment

    def start(self, program: str, *arguments: str | bytes, **options: Any) -> subprocess.Popen[str]:
        """Start a program and return at once; `options` are those of Popen."""
        path = Path(sys.executable).with_name(program)
        return subprocess.Popen([path, *arguments], env=self.env, text=True, **options)

    def run(self, program: str, *arguments: str | bytes, cwd: Path | None = None, stdin: str = "") -> "CliResult":
        """Run a program to its end."""
        started = time.monotonic()
        if self.in_process:
            words = [os.fsdecode(argument) for argument in arguments]
            result = run_here(import_module(f"{program}.cli").main, words, self.env, stdin, cwd)
            return CliResult(*result, time.monotonic() - started)
        path = Path(sys.executable).with_name(program)
        done = subprocess.run(
            [path, *arguments],
            env=self.env,
            text=True,
            capture_output=True,
            input=stdin,
            cwd=cwd,
            check=False,
            timeout=280,
        )
        return CliResult(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def producer(self, *arguments: str | bytes, **options: Any) -> "CliResult":
        return self.run("producer", *arguments, **options)

    def submit(self, *arguments: str | bytes) -> dict[str, Any]:
        """Submit, wait for the end of the job and return its result; check that counts and exit code agree."""
        result = self.producer("submit", *arguments, "--wait", "--json")
        assert result.code in (0, 3), result
        counts = result.json
        assert result.code == (3 if counts["failed"] else 0)
        assert counts["scanned"] == counts["new"] + counts["known"] + counts["failed_before"]
        assert counts["new"] == counts["captioned"] + counts["reused"] + counts["failed"]
        return dict(counts)

    def processes(self) -> list[psutil.Process]:
        """Return all processes with this data folder in their environment, and their children.

        A broker overwrites its environment with its title, so it is found by its parent.
        """
        found = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get("CAPTIONING_DATA_DIR") == str(self.data) and process.pid != os.getpid():
                    family = (process, *process.children(recursive=True))
                    found |= {one.pid: one for one in family if one.status() != psutil.STATUS_ZOMBIE}
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return list(found.values())

    def has_no_processes(self) -> bool:
        return not self.processes()


@dataclass(frozen=True)
class CliResult:
    """The exit code and the output of a program."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        """Standard output, parsed as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output, parsed as one JSON value per line."""
        return [json.loads(line) for line in self.out.splitlines()]
