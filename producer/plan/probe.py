"""Starts the worker's probe as a process of its own and reads its answers: the producer never loads torch."""

import json
import subprocess
from collections.abc import Callable
from typing import IO

from captioning.environment import child_environment, math_thread_settings
from captioning.errors import CaptioningError
from captioning.probe import MODULE, ProbeRequest, ProbeResult
from captioning.settings import Settings
from captioning.start import child_command


def run_probe(settings: Settings, request: ProbeRequest, on_progress: Callable[[str, int, int], object]) -> ProbeResult:
    """Measure what a request asks for. `on_progress` gets a text and two numbers: done, and in all.

    Raises CaptioningError when it cannot be measured.
    """
    process = subprocess.Popen(
        child_command(MODULE),
        env=child_environment(settings.as_environment() | math_thread_settings()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the log; an error is an answer
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin as stdin:
            stdin.write(request.to_text() + "\n")
        return _answers(process.stdout, len(request.files), on_progress)
    except BrokenPipeError:  # it ended before it read the request
        raise _unexpected() from None
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _answers(lines: IO[str], total: int, on_progress: Callable[[str, int, int], object]) -> ProbeResult:
    for line in lines:
        message = json.loads(line)
        if "result" in message:
            return ProbeResult.from_json(message["result"])
        if "error" in message:
            raise CaptioningError(message["error"])
        on_progress(message.get("text", "measuring"), message.get("done", 0), total)
    raise _unexpected()


def _unexpected() -> CaptioningError:
    return CaptioningError("the measurement ended unexpectedly; `worker doctor` shows what works on this machine.")
