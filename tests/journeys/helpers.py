"""Images, workers and questions that several journeys share."""

import os
import signal
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from captioning.store import jobs
from captioning.store.database import Database
from tests.journeys.cli_runner import CliRunner


def make_images(folder: Path, photographs: Path, count: int) -> Path:
    """Create a folder of different images: photographs with a little noise. Return the folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB").resize((224, 224)) for path in sorted(photographs.iterdir())]
    for i in range(count):
        pixels = np.asarray(originals[i % len(originals)]).astype(int) + rng.integers(-4, 5, (224, 224, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04d}.jpg")
    return folder


@contextmanager
def running(
    runner: CliRunner, log: Path, *arguments: str, program: str = "worker", **environment: str
) -> Iterator[psutil.Process]:
    """Run a worker, or another program, while the context lasts. SIGTERM must stop it.

    The working folder of a worker contains modules that kill it when they are imported.
    """
    runner = CliRunner(runner.data, runner.environment | environment)
    cwd = log.parent / "cwd"
    cwd.mkdir(exist_ok=True)
    for name in ("billiard", "multiprocessing", "captioning") if program == "worker" else ():
        (cwd / f"{name}.py").write_text("import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    with log.open("a") as file:
        process = runner.start(program, *arguments, stdout=file, stderr=file, start_new_session=True, cwd=cwd)
    try:
        yield psutil.Process(process.pid)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            kill_group(process.pid)


def kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def count_done(db: Database) -> int:
    """Return how many images of all jobs have a result."""
    return sum(progress.done for progress in jobs.progress(db))


def http_get(port: int, path: str, credentials: str = "") -> str:
    """Return the body of a local web page. Raises OSError when there is no answer or it is an error."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if credentials:
        request.add_header("Authorization", "Basic " + b64encode(credentials.encode()).decode())
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read().decode())


def contains(file: Path, text: str) -> bool:
    return text in file.read_text()


def command_lines() -> str:
    """Return the command lines of all processes of this machine."""
    return "\n".join(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
