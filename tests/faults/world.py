"""The world that a fault test breaks: forty images, a broker, a database, real producers and workers.

`World.check_invariants` checks I1 to I8, which docs/faults.md explains.
"""

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sqlalchemy as sa
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from captioning.queue.celery_app import KEY_PREFIX
from captioning.settings import read_settings
from captioning.store import jobs
from captioning.store.database import Database
from tests.faults.failpoints import fired_file
from tests.faults.stub_captioner import MODEL_RUNS, expected_caption
from tests.support.polling import wait_until
from tests.support.postgres import PostgresServer
from tests.support.valkey import Broker

PROJECT = Path(__file__).parents[2]
CHUNK_SIZE = 4
CHUNKS_IN_WORK = 3  # at once in a worker: a fault may cost what it has of them, captioned and not committed
LEASE_SETTINGS = {"lease_seconds": 4.0, "decode_timeout_seconds": 2.5}
LEASE_SECONDS = read_settings(**LEASE_SETTINGS).effective_lease_seconds
RECOVERY_SECONDS = 60.0  # limit for any recovery, counted from the end of the fault
GOOD, COPIES, BAD = 36, 3, 1
ITEMS = GOOD + COPIES + BAD


def png(seed: int, comment: str = "") -> bytes:
    """Return a small image, different for each seed, with a comment that the decode process of the suite may obey."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    info = PngInfo()
    if comment:
        info.add_text("Comment", comment)
    Image.fromarray(pixels).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def make_images(folder: Path, good: int = GOOD, copies: int = COPIES, bad: int = BAD) -> Path:
    """Create a folder with `good` different images, copies of the first ones, and truncated images."""
    folder.mkdir(parents=True)
    for i in range(good):
        (folder / f"{i:04d}.png").write_bytes(png(i))
    for i in range(copies):
        (folder / f"copy-{i}.png").write_bytes(png(i))
    for i in range(bad):
        (folder / f"cut-{i}.png").write_bytes(png(10_000 + i)[:90])
    return folder


@dataclass(repr=False, eq=False)
class World:
    """Everything that a scenario breaks, and what it can ask afterwards."""

    folder: Path
    broker: Broker
    store: str  # postgresql or sqlite
    postgres: PostgresServer | None = None
    database: str = ""
    proxied: dict[str, str] = field(default_factory=dict)  # settings that lead through a proxy
    faults: int = 1  # that happened; each may cost the model runs of one chunk
    fault_at: float = 0.0  # seconds since 1970
    recovery_seconds: float = 0.0
    failed: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)  # of every command, to run it in a mount namespace
    workers: list[psutil.Process] = field(default_factory=list)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images = make_images(self.folder / "images")
        self.faults_dir = self.folder / "faults"
        self.faults_dir.mkdir()
        if self.postgres is not None and not self.database:
            self.database = self.postgres.create_database()
        self.run_producer("db", "upgrade")
        self.db = Database(self.url)

    # -- programs --

    @property
    def url(self) -> str:
        if self.postgres is None:
            return f"sqlite:///{self.folder}/captions.sqlite"
        return self.postgres.url(self.database)

    def environment(self, failpoints: str = "", **settings: str) -> dict[str, str]:
        """Return the environment of producers and workers, with failpoints if any."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CAPTIONING_", "FAULTS_"))}
        own = {
            "CAPTIONING_DATA_DIR": str(self.folder / "data"),
            "CAPTIONING_BROKER_URL": self.broker.url,
            "CAPTIONING_DATABASE_URL": self.url,
            "CAPTIONING_CHUNK_SIZE": str(CHUNK_SIZE),
            "CAPTIONING_BATCH_SIZE": "2",
            "CAPTIONING_SWEEP_SECONDS": "0.5",
            "CAPTIONING_DATABASE_RETRY_SECONDS": "5",
            "CAPTIONING_DECODE_PROCESSES": "1",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "FAULTS_DIR": str(self.faults_dir),
            "FAULTS_SECONDS_PER_IMAGE": "0.02",
            "FAULTS_FAILPOINTS": failpoints,
        }
        own |= {f"CAPTIONING_{name.upper()}": str(value) for name, value in LEASE_SETTINGS.items()}
        return inherited | own | self.proxied | self.settings | settings

    def start_worker(self, failpoints: str = "", prefix: Sequence[str] = (), **settings: str) -> psutil.Process:
        """Start a worker in a session of its own."""
        with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as log:
            process = subprocess.Popen(
                [*self.prefix, *prefix, sys.executable, "-m", "tests.faults.worker"],
                env=self.environment(failpoints, **settings),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(psutil.Process(process.pid))
        self._started.append(process)
        return self.workers[-1]

    def run_producer(
        self, *arguments: str, failpoints: str = "", code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a producer to its end. Its exit code must be `code`; None allows any."""
        result = subprocess.run(
            [*self.prefix, sys.executable, "-m", "tests.faults.producer", *arguments],
            env=self.environment(failpoints),
            cwd=PROJECT,
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
            start_new_session=True,  # a failpoint with `kill` ends the whole process group
        )
        assert code is None or result.returncode == code, (result.returncode, result.stdout, result.stderr)
        return result

    def submit(self, *arguments: str) -> int:
        """Submit the images; return the number of the job."""
        self.run_producer("submit", str(self.images), *arguments)
        return self.job

    def kill(self, worker: psutil.Process) -> None:
        """End all processes of a worker with SIGKILL, as the system does when it runs out of memory."""
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)

    def pool_process(self, worker: psutil.Process) -> psutil.Process:
        """Return the process of a worker that runs the model."""
        found: list[psutil.Process] = []

        def is_started() -> bool:
            found[:] = [c for c in worker.children() if "billiard.spawn" in " ".join(c.cmdline())]
            return bool(found)

        wait_until(is_started, 30, "the pool process")
        return found[-1]

    def is_alive(self, worker: psutil.Process) -> bool:
        return worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE

    def exit_code(self, worker: psutil.Process) -> int | None:
        return next(process for process in self._started if process.pid == worker.pid).poll()

    def log(self, number: int = 0) -> str:
        """Return the log of a worker; workers are numbered from 0 in the order of their start."""
        return (self.folder / f"worker-{number}.log").read_text(errors="replace")

    # -- the fault and the recovery --

    def mark_fault(self) -> None:
        """Start to measure the recovery: the fault has just happened, or has just ended."""
        self.fault_at = time.time()

    def wait_for_fault(self, point: str, seconds: float = 40) -> None:
        """Wait until the fault at a failpoint has happened; measure the recovery from that time."""
        file = fired_file(point, self.faults_dir)
        wait_until(file.exists, seconds, f"the fault at {point!r}")
        self.fault_at = file.stat().st_mtime

    def mark_recovery(self) -> None:
        """Note how long the recovery took, up to now."""
        self.recovery_seconds = time.time() - self.fault_at if self.fault_at else 0.0

    def wait_for_items(self, count: int, seconds: float = 40) -> None:
        """Wait until at least `count` items are finished."""
        wait_until(lambda: self.finished_items >= count, seconds, f"{count} finished items")

    def wait_until_finished(self, seconds: float, what: str = "the job to finish") -> None:
        wait_until(self.is_finished, seconds, what)

    def wait_for_recovery(self, seconds: float = RECOVERY_SECONDS, failures: dict[str, int] | None = None) -> None:
        """Wait until every job is finished (I1), then check the other invariants."""
        self.wait_until_finished(seconds + max(0.0, self.fault_at - time.time()), "every item to be finished (I1)")
        self.mark_recovery()
        self.check_invariants(failures)

    # -- the rows --

    @property
    def job(self) -> int:
        """The number of the newest job."""
        return jobs.newest_job(self.db)

    @property
    def finished_items(self) -> int:
        return sum(progress.done for progress in jobs.progress(self.db))

    def is_finished(self) -> bool:
        """Return whether there is a job and every job is finished."""
        finished = [progress.is_finished for progress in jobs.progress(self.db)]
        return bool(finished) and all(finished)

    def scalar(self, query: str) -> Any:
        with self.db.reading() as connection:
            return connection.exec_driver_sql(query).scalar()

    def execute(self, statement: str, **values: object) -> None:
        """Change rows without the product's functions."""
        with self.db.writing() as connection:
            connection.execute(sa.text(statement), values)

    def drop_unacknowledged(self) -> None:
        """Delete the unacknowledged messages of dead workers; the broker would deliver them again after an hour."""
        with self.broker.client() as client:
            client.delete(f"{KEY_PREFIX}unacked", f"{KEY_PREFIX}unacked_index")

    def check_invariants(self, failures: dict[str, int] | None = None) -> None:
        """Check what must be true after any fault. `failures`: the expected failed items by reason, for I4.

        I2: one caption for each content that can be captioned. I3: it is the expected caption. I4: captioned + reused
        + failed = submitted, and each failure has its reason. I5 is in the tests: workers that were not killed are
        alive. I6: in the end there is no message and no lease. I7: the model ran no more often than images and faults
        explain. I8: no row is orphaned, and no password is in a log.
        """
        self._check_captions()
        for progress in jobs.progress(self.db):
            assert progress.done == progress.total, f"I4: {progress}"
            expected = {"truncated": BAD} if failures is None else failures
            if progress.failed_before:  # an earlier job found what cannot be decoded
                expected = {}
            assert jobs.reasons(self.db, progress.job) == expected, "I4: failures and their reasons"
        assert self.scalar("SELECT count(*) FROM items WHERE state = 'failed' AND reason IS NULL") == 0, "I4"
        wait_until(self.broker.is_empty, 30, "the broker to have no message (I6)")
        assert self.scalar("SELECT count(*) FROM chunks WHERE state = 'running'") == 0, "I6: no lease"
        runs = self.faults_dir / MODEL_RUNS
        ran = runs.stat().st_size if runs.exists() else 0
        assert ran <= ITEMS + self.faults * CHUNKS_IN_WORK * CHUNK_SIZE, f"I7: the model ran {ran} times"
        assert self.scalar("SELECT count(*) FROM items WHERE job_id NOT IN (SELECT id FROM jobs)") == 0, "I8"
        if self.store == "sqlite":
            assert self.scalar("PRAGMA integrity_check") == "ok"
        for log in self.folder.glob("worker-*.log"):
            assert self.broker.password not in log.read_text(errors="replace"), f"I8: a password in {log}"

    def _check_captions(self) -> None:
        with self.db.reading() as connection:
            rows = connection.exec_driver_sql(
                "SELECT i.sha256, c.text FROM captions c JOIN images i ON i.id = c.image_id"
            ).all()
        captions = {row.sha256: row.text for row in rows}
        assert len(rows) == len(captions), "I2: no content has two captions"
        assert captions == {sha256: expected_caption(sha256) for sha256 in captions}, "I3: the expected captions"
        assert set(captions) == self._good_contents(), "I2: a caption for every good content"

    def _good_contents(self) -> set[str]:
        """Return the SHA-256 of every image that can be captioned."""
        good = (path for path in self.images.rglob("*.*") if path.name[0].isdigit() or path.name.startswith("copy"))
        return {hashlib.sha256(path.read_bytes()).hexdigest() for path in good}

    def close(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.db.close()
        shutil.rmtree(self.folder, ignore_errors=True)
