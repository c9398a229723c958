"""Run a command line in this process, with arguments, environment and output of its own.

A process of its own takes a second, most of it for imports. Commands that start no process behave the same here.
"""

import io
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

import pytest


@dataclass(frozen=True)
class Ended:
    """How a command line ended, and what it wrote."""

    code: object
    out: str
    err: str


def run_here(main: Callable[[], None], *words: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Call `main` as if its program ran with these arguments and these environment variables added."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with (
        patch.object(sys, "argv", [main.__module__, *words]),
        patch.dict(os.environ, environment or {}),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
    return Ended(ended.value.code or 0, *texts)
