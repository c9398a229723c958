"""Measure the start of an embedded job: from `producer submit FOLDER` to the first caption, and the memory of a worker.

python -m benchmarks.start_up FOLDER [--base OTHER/.venv/bin/producer] [--rounds 5]

The two versions run in turns, each with a new data folder that has only the compiled encoder of a run before. Times are
seconds since the command was started. `CPU` is what all processes have used up to the first caption, which is what can
be compared on a machine that others use too. `memory` is the proportional share (PSS) at its largest. Linux only.
"""

import argparse
import datetime
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

KINDS = {  # of processes, by what their command lines contain
    "supervisor": "producer.embedded.supervisor",
    "broker": "valkey-server",
    "decode": "captioning.decoding.child",
    "model": "multiprocessing|billiard",
    "worker": "worker.cli",
    "producer": "producer",
}
MARKS = ("supervisor", "broker", "worker", "model", "decode", "model loaded", "first caption", "end")
_TICKS = os.sysconf("SC_CLK_TCK")
_PSS_SECONDS = 0.5  # between two looks at the memory, which take the kernel milliseconds


@dataclass
class Run:
    """What was seen of one command."""

    marks: dict[str, float] = field(default_factory=dict)  # seconds since its start
    cpu: list[tuple[float, dict[str, float]]] = field(default_factory=list)  # seconds by kind, at a time
    memory: dict[str, float] = field(default_factory=dict)  # MB by kind, when all of the worker had most

    def cpu_until(self, at: float) -> dict[str, float]:
        """Return the CPU seconds by kind up to a time."""
        return next((seconds for when, seconds in self.cpu if when >= at), self.cpu[-1][1])


class Watch:
    """Looks at a process and at those that it started, and remembers those that have ended."""

    def __init__(self, pid: int, run: Run) -> None:
        self._pids, self._run, self._began = {pid: "producer"}, run, time.monotonic()
        self._cpu: dict[int, float] = {}
        self._looked_at = 0.0

    def look(self) -> None:
        """Note new processes and what all have used."""
        now = time.monotonic() - self._began
        for pid in list(self._pids):
            self._find_children(pid, now)
            self._cpu[pid] = max(self._cpu.get(pid, 0.0), cpu_of(pid))
        used: dict[str, float] = {}
        for pid, kind in self._pids.items():
            used[kind] = used.get(kind, 0.0) + self._cpu.get(pid, 0.0)
        self._run.cpu.append((now, used))
        if now - self._looked_at > _PSS_SECONDS:
            self._looked_at = now
            self._look_at_memory()

    def _find_children(self, pid: int, now: float) -> None:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, read(file).split()):
                command = read(Path(f"/proc/{child}/cmdline")).replace("\0", " ")
                kind = next((kind for kind, words in KINDS.items() if re.search(words, command)), "other")
                if self._pids.get(child) != kind:  # between fork and exec it looks like its parent
                    self._pids[child] = kind
                    self._run.marks[kind] = min(self._run.marks.get(kind, now), now)

    def _look_at_memory(self) -> None:
        sizes: dict[str, float] = {}
        for pid, kind in self._pids.items():
            if found := re.search(r"^Pss: *(\d+) kB", read(Path(f"/proc/{pid}/smaps_rollup")), re.MULTILINE):
                sizes[kind] = sizes.get(kind, 0.0) + int(found[1]) / 1000
        if worker_memory(sizes) > worker_memory(self._run.memory):
            self._run.memory = sizes


def worker_memory(sizes: dict[str, float]) -> float:
    """Return the MB of a worker: its parent process, the one with the model, and the decode processes."""
    return sum(sizes.get(kind, 0.0) for kind in ("worker", "model", "decode"))


def read(file: Path) -> str:
    """Return the text of a file of /proc; empty when the process has ended."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process, 0 when it has ended."""
    fields = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def measure(producer: str, folder: str, compiled: Path | None) -> Run:
    """Run `producer submit` in a new data folder, with a compiled encoder if there is one."""
    run = Run()
    with tempfile.TemporaryDirectory(prefix="captionmill-start-") as temporary:
        data = Path(temporary)
        if compiled is not None:
            shutil.copytree(compiled, data / "runtime")
        environment = os.environ | {"CAPTIONING_DATA_DIR": str(data)}
        began = time.time()
        command = [producer, "submit", folder, "--wait"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watch = Watch(process.pid, run)
        while process.poll() is None:
            watch.look()
            time.sleep(0.01)
        run.marks["end"] = time.time() - began
        run.marks["first caption"] = first_caption(data) - began
        run.marks["model loaded"] = logged(data / "worker.log", "model_loaded") - began
        if compiled is None:
            keep(data / "runtime", producer)
    return run


def first_caption(data: Path) -> float:
    """Return when the first caption was committed, in seconds since 1970."""
    with sqlite3.connect(data / "captions.sqlite") as connection:
        return float(connection.execute("SELECT min(finished_at) FROM items").fetchone()[0])


def logged(log: Path, event: str) -> float:
    """Return when an event was logged, in seconds since 1970."""
    line = next(line for line in log.read_text().splitlines() if event in line)
    found = re.search(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line)
    return datetime.datetime.fromisoformat(found[0]).timestamp() if found else float("nan")


_KEPT: dict[str, Path] = {}


def keep(folder: Path, producer: str) -> None:
    """Keep a version's compiled encoder for its other runs."""
    kept = Path(tempfile.mkdtemp(prefix="captionmill-start-")) / "runtime"
    shutil.copytree(folder, kept)
    _KEPT[producer] = kept


def median(runs: list[Run], mark: str) -> float:
    """Return the median of a mark over runs."""
    return statistics.median(run.marks.get(mark, float("nan")) for run in runs)


def show(name: str, runs: list[Run]) -> None:
    """Print the medians of a version."""
    print(f"\n{name}: {len(runs)} runs, medians")
    print("  " + ", ".join(f"{mark} {median(runs, mark):.2f}" for mark in sorted(MARKS, key=lambda m: median(runs, m))))
    used = [run.cpu_until(run.marks["first caption"]) for run in runs]
    by_kind = {kind: statistics.median(one.get(kind, 0.0) for one in used) for kind in KINDS}
    total = statistics.median(sum(one.values()) for one in used)
    print(f"  CPU until the first caption {total:.2f}: " + ", ".join(f"{k} {s:.2f}" for k, s in by_kind.items()))
    largest = max(runs, key=lambda run: worker_memory(run.memory)).memory
    sizes = ", ".join(f"{kind} {size:.0f}" for kind, size in largest.items())
    print(f"  memory of the worker {worker_memory(largest):.0f} MB: {sizes}")


def main() -> None:
    """Measure this version, and the base in turns with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--base", help="the program `producer` of another version")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    producers = [*filter(None, [options.base]), str(Path(sys.executable).with_name("producer"))]
    runs: dict[str, list[Run]] = {producer: [] for producer in producers}
    for producer in producers:
        measure(producer, options.folder, None)  # compiles the encoder, fills the file cache
    for _ in range(options.rounds):
        for producer in producers:
            runs[producer].append(measure(producer, options.folder, _KEPT[producer]))
    for producer in producers:
        show(producer, runs[producer])
    for kept in _KEPT.values():
        shutil.rmtree(kept.parent)


if __name__ == "__main__":
    main()
