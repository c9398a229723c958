"""Run a command line in this process, with arguments, environment, streams and working folder of its own.

A process of its own takes one or two seconds, most of them for imports.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import pytest


def run_here(
    main: Callable[[], None], words: list[str], environment: Mapping[str, str], stdin: str, cwd: Path | None
) -> tuple[int, str, str]:
    """Call `main` as its program does; return the exit code, standard output and standard error."""
    streams = [io.TextIOWrapper(io.BytesIO(text), write_through=True) for text in (stdin.encode(), b"", b"")]
    with (
        patch.object(sys, "argv", [main.__module__, *words]),
        patch.dict(os.environ, environment, clear=True),
        patch.multiple(sys, stdin=streams[0], stdout=streams[1], stderr=streams[2]),
        contextlib.chdir(cwd or Path.cwd()),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    out, err = (stream.buffer.getvalue().decode() for stream in streams[1:])  # type: ignore[attr-defined]
    return int(ended.value.code or 0), out, err
