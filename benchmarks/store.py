"""Measure the database: registering, recording, and what people ask for at a million rows, on PostgreSQL and SQLite.

python -m benchmarks.store register --files 100000
python -m benchmarks.store record --captions 20000
python -m benchmarks.store read --files 1000000
python -m benchmarks.store all

Every figure has two forms: by the clock, and by the time that the cores spent on it, in the program and in the server.
The second one says what a free machine does when the cores are shared with other work.
"""

import argparse
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

import migrations
from benchmarks.scale_prefill import write_results
from benchmarks.store_rows import LEASE_SECONDS, MODEL, Rows, batched, found_files, outcomes_of
from captioning.store import claims, jobs, leases, results, search, statistics
from captioning.store.database import Database
from captioning.store.outcomes import Provenance
from captioning.values import DecodeCapability
from tests.support.postgres import PostgresServer

STORES = ("postgresql", "sqlite")
BATCHES, WRITERS = (32, 256, 1024), (1, 4)
CHUNK_SIZE = 1024
FILES_PER_TRANSACTION = 2000  # as `producer submit` does
T = TypeVar("T")
PROVENANCE = Provenance("torch", "bf16", "captionmill 0.1, torch 2.11", DecodeCapability(), "encoder")


@dataclass
class Store:
    """A database that is measured, and the processes that run it besides this one."""

    name: str
    url: str
    server: psutil.Process | None = None

    def open(self) -> Database:
        return Database(self.url)

    def server_cpu_seconds(self) -> float:
        """Return what the server has used so far."""
        if self.server is None:
            return 0.0
        seconds = 0.0
        for process in (*self.server.children(), self.server):
            with suppress(psutil.NoSuchProcess):  # one that has just ended: the server counts it
                t = process.cpu_times()
                seconds += t.user + t.system + t.children_user + t.children_system
        return seconds


@dataclass
class Stopwatch:
    """The seconds that something took, by the clock and of the cores."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def time(self, act: Callable[[], T]) -> T:
        """Call something, and add what it takes."""
        started, cpu = time.perf_counter(), time.process_time()
        result = act()
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu
        return result

    def rates(self, rows: int) -> str:
        return f"{rows / self.seconds:,.0f} | {rows / self.cpu_seconds:,.0f}"


@contextmanager
def store_of(name: str) -> Iterator[Store]:
    """Run an empty database with its tables while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="cm-") as folder:
        if name == "sqlite":
            store, close = Store(name, f"sqlite:///{folder}/captions.sqlite"), lambda: None
        else:
            server = PostgresServer(Path(folder) / "postgres")
            pid = int((Path(server.server.pgdata) / "postmaster.pid").read_text().split()[0])
            store, close = Store(name, server.url(server.create_database()), psutil.Process(pid)), server.close
        try:
            db = store.open()
            migrations.upgrade(db)
            db.close()
            yield store
        finally:
            close()


# -- registering --


def register(store: Store, files: int) -> None:
    """Measure registering new files, and the same files again."""
    db = store.open()
    rows = Rows.create(db)
    for what in ("new files", "the same again"):
        watch, server_before = Stopwatch(), store.server_cpu_seconds()
        for part in batched(found_files(files), FILES_PER_TRANSACTION):
            watch.time(partial(rows.register, part, CHUNK_SIZE))
        watch.cpu_seconds += store.server_cpu_seconds() - server_before
        print(f"| {store.name} | register {what} | {watch.rates(files)} |", flush=True)
    db.close()


# -- recording --


def record(store: Store, captions: int, batches: Sequence[int], writers: Sequence[int]) -> None:
    """Measure recording captions, with batches of several sizes and by several writers at once."""
    start = 0
    for batch in batches:
        for n_writers in writers:
            db = store.open()
            Rows.create(db).register_all(found_files(captions, start), CHUNK_SIZE)
            db.close()
            start += captions
            rates = _write(store, batch, n_writers).rates(captions)
            print(f"| {store.name} | record, {n_writers} x batches of {batch} | {rates} |", flush=True)


def _write(store: Store, batch: int, writers: int) -> Stopwatch:
    """Record everything that is pending, in processes."""
    server_before = store.server_cpu_seconds()
    with ProcessPoolExecutor(writers, multiprocessing.get_context("fork")) as pool:
        spent = list(pool.map(partial(_writer, store.url, batch), [f"w{n}" for n in range(writers)]))
    server = store.server_cpu_seconds() - server_before
    return Stopwatch(max(w.seconds for w in spent), sum(w.cpu_seconds for w in spent) + server)


def _writer(url: str, batch: int, name: str) -> Stopwatch:
    """Claim, commit and complete chunks until there are no more, as a worker does; what a model does is not counted."""
    gc.freeze()  # as a worker does
    db = Database(url)
    root, watch = Rows.create(db).root_id, Stopwatch()
    take = partial(claims.claim, db, name, [MODEL.digest], [root], LEASE_SECONDS)
    while (claim := watch.time(take)) is not None:
        for part in batched(claim.items, batch):
            watch.time(partial(results.commit_batch, db, claim, outcomes_of(part), PROVENANCE, LEASE_SECONDS))
        watch.time(partial(leases.complete, db, claim))
    db.close()
    return watch


# -- reading --


def read(store: Store, files: int) -> None:
    """Measure what people ask for when all files have captions, in a warm process and as commands."""
    db = store.open()
    rows = Rows.create(db)
    rows.register_all(found_files(files), 128)
    write_results(db, rows.results())
    questions: dict[str, tuple[Callable[[], object], list[str]]] = {
        "status": (lambda: jobs.progress(db, rows.job), ["status"]),
        "search, a word of 1 in 16 captions": (lambda: search.search(db, "dog", 20), ["search", "dog"]),
        "search, two words": (lambda: search.search(db, "dog beach", 20), ["search", "dog", "beach"]),
        "search, a rare word": (lambda: search.search(db, "abcdef", 20), ["search", "abcdef"]),
        "search, a field": (lambda: search.search(db, "confidence>0.9", 20), ["search", "confidence>0.9"]),
    }
    for order in ("path", "confidence", "time", "size"):

        def ask(order: str = order) -> object:
            return statistics.list_files(db, 21, sort=order, descending=False, status=None, where="")

        questions[f"list, by {order}"] = ask, ["list", "--sort", order]
    print("\n| store | question | in a warm process, ms | as a command, more than `--version`, ms |\n|---|---|---|---|")
    start = _command_ms(store, ["--version"])
    print(f"| {store.name} | `producer --version` | | {start:.0f} |")
    for question, (ask, command) in questions.items():
        command_ms = _command_ms(store, command) - start
        print(f"| {store.name} | {question}, {files:,} files | {_query_ms(ask):.1f} | {command_ms:.0f} |", flush=True)
    db.close()


def _query_ms(ask: Callable[[], object], times: int = 7) -> float:
    """Return the best of several times, or the first one when that took more than a second."""
    first = _timed(ask)
    return (first if first > 1 else min(_timed(ask) for _ in range(times))) * 1000


def _command_ms(store: Store, arguments: list[str], times: int = 5) -> float:
    program = str(Path(sys.executable).with_name("producer"))
    environment = os.environ | {"CAPTIONING_DATABASE_URL": store.url}

    def run() -> None:
        subprocess.run(
            [program, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )

    return min(_timed(run) for _ in range(times)) * 1000


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("register", "record", "read", "all"))
    parser.add_argument("--store", choices=STORES, action="append")
    parser.add_argument("--files", type=int)
    parser.add_argument("--captions", type=int, default=20_000)
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--writers", type=int, action="append")
    arguments = parser.parse_args()
    print("| store | what | rows/s | rows per core second |\n|---|---|---|---|")
    for name in arguments.store or STORES:
        if arguments.what in ("register", "all"):
            with store_of(name) as store:
                register(store, arguments.files or 100_000)
        if arguments.what in ("record", "all"):
            with store_of(name) as store:
                record(store, arguments.captions, arguments.batch or BATCHES, arguments.writers or WRITERS)
        if arguments.what in ("read", "all"):
            with store_of(name) as store:
                read(store, arguments.files or 1_000_000)


if __name__ == "__main__":
    main()
