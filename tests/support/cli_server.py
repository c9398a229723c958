"""A process that runs command lines inside itself, one after the other: it imports the programs once.

It has what a process inherits, for example a mount namespace or a PYTHONPATH, and costs far less than a process for
each command.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

PROJECT = Path(__file__).parents[2]


class CliServer:
    """The owner's side of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self, program: str, words: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
    ) -> tuple[int, str, str]:
        """Run a command line; return its exit code, standard output and standard error."""
        request = {"program": program, "words": list(words), "environment": dict(environment)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request | {"cwd": str(cwd or PROJECT)}) + "\n")
        self._process.stdin.flush()
        code, out, err = json.loads(self._process.stdout.readline())
        return code, out, err


@contextmanager
def cli_server(prefix: Sequence[str] = (), **environment: str) -> Iterator[CliServer]:
    """Start the process; `prefix` before its command may put it into a namespace."""
    command = [*prefix, sys.executable, "-m", "tests.support.cli_server"]
    path = os.pathsep.join(filter(None, (environment.pop("PYTHONPATH", ""), str(PROJECT))))
    env = os.environ | {"PYTHONPATH": path} | environment
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as process:
        try:
            yield CliServer(process)
        finally:
            process.kill()


def main() -> None:
    """Run the command lines that come as lines of JSON on standard input."""
    from tests.support.in_process import run_here

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        program = import_module(f"{request['program']}.cli").main
        answer = run_here(program, request["words"], request["environment"], "", Path(request["cwd"]))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
