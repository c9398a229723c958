"""A small world to break: forty images, a broker, a database, real producers and workers; and what must hold after.

The invariants are I1 to I8 of the fault matrix: see `World.check`.
"""

import hashlib
import io
import json
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

from captioning.store import jobs
from captioning.store.database import Database
from tests.faults.servers import KEYS, Broker, PostgresServer
from tests.faults.stub_captioner import oracle
from tests.support.servers import wait_until

PROJECT = Path(__file__).parents[2]
CHUNK = 4
RECOVERY_SECONDS = 60.0  # T: that anything may take after its fault
GOOD, COPIES, BAD = 36, 3, 1
ITEMS = GOOD + COPIES + BAD


def png(seed: int, comment: str = "") -> bytes:
    """Return a small image, different for each seed, with a comment that a fused opener may read."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if comment:
        info.add_text("Comment", comment)
    Image.fromarray(pixels).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def make_images(folder: Path, good: int = GOOD, copies: int = COPIES, bad: int = BAD) -> Path:
    """Make a folder: so many different images, copies of some, and some that are cut short."""
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
    """Everything a cell breaks, and what it may ask afterwards."""

    folder: Path
    broker: Broker
    store: str  # postgresql or sqlite
    postgres: PostgresServer | None = None
    database: str = ""
    proxied: dict[str, str] = field(default_factory=dict)  # settings that go by a proxy
    faults: int = 1  # that struck, each of which may cost a chunk's model calls
    struck_at: float = 0.0
    recovered_seconds: float = 0.0
    failed: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    workers: list[psutil.Process] = field(default_factory=list)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images = make_images(self.folder / "images")
        (self.folder / "place").mkdir()
        if self.postgres is not None and not self.database:
            self.database = self.postgres.fresh()
        self.producer("db", "upgrade")
        self.db = Database(self.url)

    # -- who acts --

    @property
    def url(self) -> str:
        if self.postgres is None:
            return f"sqlite:///{self.folder}/captions.sqlite"
        return self.postgres.url(self.database)

    def environment(self, faults: str = "", **settings: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CAPTIONING_", "FAULTS"))}
        ours = {
            "CAPTIONING_DATA_DIR": str(self.folder / "data"),
            "CAPTIONING_BROKER_URL": self.broker.url,
            "CAPTIONING_DATABASE_URL": self.url,
            "CAPTIONING_CHUNK_SIZE": str(CHUNK),
            "CAPTIONING_BATCH_SIZE": "2",
            "CAPTIONING_LEASE_SECONDS": "4",
            "CAPTIONING_IMAGE_SECONDS": "2.5",
            "CAPTIONING_SWEEP_SECONDS": "0.5",
            "CAPTIONING_OUTAGE_SECONDS": "5",
            "CAPTIONING_DECODE_PROCESSES": "1",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "FAULTS_PLACE": str(self.folder / "place"),
            "FAULTS_SECONDS": "0.02",
            "FAULTS": faults,
        }
        return kept | ours | self.proxied | self.settings | settings

    def worker(self, faults: str = "", prefix: Sequence[str] = (), **settings: str) -> psutil.Process:
        """Start a worker, in a session of its own; where its faults are to strike may be given."""
        with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as log:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.faults.worker"],
                env=self.environment(faults, **settings),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(psutil.Process(process.pid))
        self._started.append(process)
        return self.workers[-1]

    def producer(self, *words: str, faults: str = "", code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run the producer to its end; its exit code must be `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.producer", *words],
            env=self.environment(faults),
            cwd=PROJECT,
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
            start_new_session=True,  # a failpoint that kills takes the whole group
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def submit(self, *words: str, **how: Any) -> int:
        """Submit the images; return the job's number."""
        self.producer("submit", str(self.images), *words, **how)
        return self.job

    # -- what happens --

    def struck(self) -> None:
        """Note that the fault has just struck."""
        self.struck_at = time.time()

    def wait_for_strike(self, place: str, seconds: float = 40) -> None:
        """Wait until a failpoint has fired."""
        mark = self.folder / "place" / f"fired-{place}"
        wait_until(mark.exists, seconds, f"the fault at {place!r}")
        self.struck_at = mark.stat().st_mtime

    def wait_done(self, count: int, seconds: float = 40) -> None:
        """Wait until so many images are decided."""
        wait_until(lambda: self.done >= count, seconds, f"{count} images to be decided")

    def kill(self, worker: psutil.Process) -> None:
        """End a whole worker as the system does when it runs out of memory."""
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)

    def pool_process(self, worker: psutil.Process) -> psutil.Process:
        """Return the process of a worker that holds the model."""
        found: list[psutil.Process] = []

        def seen() -> bool:
            found[:] = [c for c in worker.children() if "billiard.spawn" in " ".join(c.cmdline())]
            return bool(found)

        wait_until(seen, 30, "the pool process")
        return found[-1]

    # -- what holds --

    @property
    def job(self) -> int:
        return jobs.newest_job(self.db)

    @property
    def done(self) -> int:
        return sum(progress.done for progress in jobs.progress(self.db))

    def one(self, query: str) -> Any:
        with self.db.reading() as connection:
            return connection.exec_driver_sql(query).scalar()

    def is_over(self) -> bool:
        states = [progress.is_finished for progress in jobs.progress(self.db)]
        return bool(states) and all(states)

    def recover(self, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until every job is over, I1; then check the rest."""
        wait_until(self.is_over, seconds + max(0.0, self.struck_at - time.time()), "every image to be decided (I1)")
        self.recovered_seconds = time.time() - self.struck_at if self.struck_at else 0.0
        self.check()

    def check(self, failed: dict[str, int] | None = None) -> None:
        """Check what must hold however the world was broken.

        I2 a caption for each content that can be captioned, no more; I3 each the one that its content has; I4
        captioned + reused + failed = submitted, each failure with its reason; I5 nobody had to help: workers that
        were not killed are alive; I6 at rest no message is anywhere and no lease held; I7 the model ran no more
        often than images and faults explain; I8 no row belongs to nothing, no password is in a log.
        """
        failed = {"truncated": BAD} if failed is None else failed
        oracles = self._oracles()
        with self.db.reading() as connection:
            rows = connection.exec_driver_sql(
                "SELECT i.sha256, c.text FROM captions c JOIN images i ON i.id = c.image_id"
            ).all()
        captions = {row.sha256: row.text for row in rows}
        assert len(rows) == len(captions), "I2: one caption a content"
        assert captions == {sha: oracle(sha) for sha in captions}, "I3: captions as foretold"
        for progress in jobs.progress(self.db):
            assert progress.done == progress.total, f"I4: {progress}"
            assert jobs.reasons(self.db, progress.job) == failed, "I4: failures and their reasons"
        assert set(captions) == oracles, "I2: a caption for every good content"
        assert self.one("SELECT count(*) FROM items WHERE state = 'failed' AND reason IS NULL") == 0, "I4"
        wait_until(self.broker.at_rest, 30, "no message to be anywhere any more (I6)")
        assert self.one("SELECT count(*) FROM chunks WHERE state = 'running'") == 0, "I6: no lease"
        calls = self.folder / "place" / "model-calls"
        ran = calls.stat().st_size if calls.exists() else 0
        assert ran <= ITEMS + self.faults * CHUNK, f"I7: the model ran {ran} times"
        assert self.one("SELECT count(*) FROM items WHERE job_id NOT IN (SELECT id FROM jobs)") == 0, "I8"
        if self.store == "sqlite":
            assert self.one("PRAGMA integrity_check") == "ok"
        for log in self.folder.glob("worker-*.log"):
            assert self.broker.password not in log.read_text(errors="replace"), f"a password in {log}"

    def _oracles(self) -> set[str]:
        """Return the SHA-256 of every image that can be captioned."""
        good = (path for path in self.images.rglob("*.*") if path.name[0].isdigit() or path.name.startswith("copy"))
        return {hashlib.sha256(path.read_bytes()).hexdigest() for path in good}

    def forget_unacknowledged(self) -> None:
        """Drop what the broker believes to be in the hands of workers that are dead; it would do so in an hour."""
        with self.broker.client() as client:
            client.delete(f"{KEYS}unacked", f"{KEYS}unacked_index")

    def alive(self, worker: psutil.Process) -> bool:
        return worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE

    def exit_code(self, worker: psutil.Process) -> int | None:
        return next(process for process in self._started if process.pid == worker.pid).poll()

    def log(self, number: int = 0) -> str:
        return (self.folder / f"worker-{number}.log").read_text(errors="replace")

    def close(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.db.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def read_json(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def raw(world: World, query: str, **values: object) -> None:
    """Change rows as no program of ours would."""
    with world.db.writing() as connection:
        connection.execute(sa.text(query), values)
