"""How fast whole jobs are: decode processes alone, and `producer submit` with its defaults, watched from outside."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from itertools import cycle
from pathlib import Path

import psutil

from benchmarks.gpu.images import SIDE, jpeg
from benchmarks.gpu.report import Report, Row
from captioning.decoding.pool import DecodePool, DecodeRequest
from captioning.environment import child_environment
from captioning.model.pixels import Limits

_NAMES_THREADS = """
import ctypes, threading
library, before = ctypes.CDLL(None), threading.Thread._bootstrap_inner
def bootstrap(thread):
    library.prctl(15, thread.name.encode()[:15], 0, 0, 0)
    before(thread)
threading.Thread._bootstrap_inner = bootstrap
"""
"""What Python runs at its start in the programs that are measured: the system then knows the names of threads."""

_SHOWN = 6  # threads


def decode_rate(processes: int, seconds: float) -> float:
    """Return the images per second that decode processes give to a process that does nothing else."""
    files = [jpeg(seed) for seed in range(16)]
    with closing(DecodePool(processes, SIDE, Limits(), 60.0)) as pool:
        for _ in pool.decode_all([DecodeRequest(files[0], None)] * 8 * processes, print):
            pass  # until all processes have started
        done, began = 0, time.perf_counter()
        for _ in pool.decode_all((DecodeRequest(data, None) for data in cycle(files)), print):
            done += 1
            if time.perf_counter() - began > seconds:
                break
        return done / (time.perf_counter() - began)


class Watched:
    """`producer submit FOLDER --wait` in a data folder of its own, ended after some seconds."""

    def __init__(self, images: Path, data: Path, device: str, seconds: float) -> None:
        self.data, self.memory, self.threads = data, 0, Counter[str]()
        names = data.parent / "names"
        names.mkdir(parents=True, exist_ok=True)
        (names / "sitecustomize.py").write_text(_NAMES_THREADS)
        producer = str(Path(sys.executable).with_name("producer"))
        changes = {"CAPTIONING_DATA_DIR": str(data), "CAPTIONING_DEVICE": device, "PYTHONPATH": str(names)}
        self.began = time.time()
        process = subprocess.Popen(
            [producer, "submit", str(images), "--wait"], env=child_environment(changes),
            stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None and time.time() - self.began < seconds:
                time.sleep(0.3)
                self._look()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            process.wait()

    def _look(self) -> None:
        """Note the memory and the threads of the process with the model: the largest that uses the data folder."""
        found: list[tuple[int, int, Counter[str]]] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("CAPTIONING_DATA_DIR") == str(self.data):
                    found.append((process.memory_info().rss, process.pid, _threads(process)))
        if found:
            memory, _, self.threads = max(found, key=lambda one: one[0])
            self.memory = max(self.memory, memory)

    def commits(self) -> list[tuple[float, int]]:
        """Return the times of commits, in seconds from the start, and how many images each had."""
        with closing(sqlite3.connect(self.data / "captions.sqlite")) as connection:
            query = "SELECT finished_at, count(*) FROM items WHERE state = 'captioned' GROUP BY 1 ORDER BY 1"
            return [(at - self.began, count) for at, count in connection.execute(query) if at > self.began]


def _threads(process: psutil.Process) -> Counter[str]:
    """Return the CPU seconds of a process by the names of its threads."""
    found: Counter[str] = Counter()
    for thread in process.threads():
        name = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip()
        found[name] += thread.user_time + thread.system_time  # type: ignore[assignment]
    return found


def job_rows(report: Report, name: str, watched: Watched, goals: bool) -> None:
    """Measure a job: steady rate, start-up, memory, and what the process with the model spends on an image."""
    commits = watched.commits()
    if len(commits) < 2:
        raise RuntimeError(f"{sum(n for _, n in commits)} images were captioned, in {len(commits)} commits")
    images, first, last = sum(n for _, n in commits), commits[0][0], commits[-1][0]
    goal = 6000 if goals else None
    report.add(Row(f"{name}, steady", rate_of(commits), "images/s", goal, note=f"{images} images"))
    late = [commit for commit in commits if commit[0] >= (first + last) / 2]
    if len(late) > 1:
        report.add(Row(f"{name}, second half", rate_of(late), "images/s"))
    report.add(Row(f"{name}, start to first commit", first, "s", 4 if goals else None, at_most=True))
    report.add(Row(f"{name}, memory of the worker", watched.memory / 1e9, "GB"))
    spent = [f"{thread} {1e6 * taken / images:.0f}" for thread, taken in watched.threads.most_common(_SHOWN)]
    total = 1e6 * sum(watched.threads.values()) / images
    report.add(Row(f"{name}, CPU of the worker", total, "us/image", note="by thread: " + ", ".join(spent)))


def rate_of(commits: list[tuple[float, int]]) -> float:
    """Return images per second from the first commit to the last."""
    return sum(count for _, count in commits[1:]) / (commits[-1][0] - commits[0][0])
