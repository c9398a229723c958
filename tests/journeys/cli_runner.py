"""A person at a terminal: the installed programs, in a data folder of their own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass
class CliRunner:
    """Somebody who runs `producer`, `worker` and `training`, with an environment of their own.

    `experienced`: in whose data folder the model was prepared for this machine before, which takes a while.
    """

    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    experienced: bool = False

    def __post_init__(self) -> None:
        if self.experienced:
            self.data.mkdir(parents=True, exist_ok=True)
            (self.data / "runtime").symlink_to(os.environ["CAPTIONING_TEST_RUNTIME"])

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CAPTIONING_")}
        return kept | {"CAPTIONING_DATA_DIR": str(self.data)} | self.environment

    def start(self, program: str, *words: str | bytes, **options: Any) -> subprocess.Popen[str]:
        path = Path(sys.executable).with_name(program)
        return subprocess.Popen([path, *words], env=self.env, text=True, **options)

    def run(self, program: str, *words: str | bytes, cwd: Path | None = None, stdin: str = "") -> "CliResult":
        path = Path(sys.executable).with_name(program)
        started = time.monotonic()
        done = subprocess.run(
            [path, *words], env=self.env, text=True, capture_output=True, input=stdin, cwd=cwd, check=False, timeout=280
        )
        return CliResult(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def producer(self, *words: str | bytes, **options: Any) -> "CliResult":
        return self.run("producer", *words, **options)

    def submit(self, *words: str | bytes) -> dict[str, Any]:
        """Submit, wait and return the JSON answer; the exit code must fit it."""
        said = self.producer("submit", *words, "--wait", "--json")
        assert said.code in (0, 3), said
        answer = said.json
        assert said.code == (3 if answer["failed"] else 0)
        assert answer["scanned"] == answer["new"] + answer["known"]
        assert answer["new"] == answer["captioned"] + answer["reused"] + answer["failed"]
        return dict(answer)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs with this person's data folder in its environment, and what that started.

        A broker writes its title over its environment, so it is found by its parent.
        """
        mine = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get("CAPTIONING_DATA_DIR") == str(self.data) and process.pid != os.getpid():
                    family = (process, *process.children(recursive=True))
                    mine |= {one.pid: one for one in family if one.status() != psutil.STATUS_ZOMBIE}
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return list(mine.values())

    def is_quiet(self) -> bool:
        return not self.processes()


@dataclass(frozen=True)
class CliResult:
    """What a program answered."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]
