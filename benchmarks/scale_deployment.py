"""What a run at scale works with: a broker, a database, producers and workers, each a real process."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import sqlalchemy as sa

import migrations
from captioning.store.database import Database
from tests.faults.servers import KEYS, Broker, PostgresServer

PROJECT = Path(__file__).parents[1]


class World:
    """Servers and processes below one folder."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        folder.chmod(0o755)  # PostgreSQL is another user when we are root
        for name in ("place", "timings", "logs"):
            (folder / name).mkdir(exist_ok=True)
        self.broker = Broker(folder / "broker")
        self.broker.start()
        self.postgres = PostgresServer(folder / "postgres") if store == "postgresql" else None
        self.url = f"sqlite:///{folder}/captions.sqlite"
        if self.postgres is not None:
            self.url = self.postgres.url(self.postgres.fresh())
        self.db = Database(self.url)
        migrations.upgrade(self.db)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started = 0

    @property
    def environment(self) -> dict[str, str]:
        """Return what producers and workers read; chunk, batch and lease are the defaults."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CAPTIONING_", "FAULTS"))}
        return kept | {
            "CAPTIONING_DATA_DIR": str(self.folder / "data"),
            "CAPTIONING_BROKER_URL": self.broker.url,
            "CAPTIONING_DATABASE_URL": self.url,
            "PYTHONPATH": str(PROJECT),
            "FAULTS_PLACE": str(self.folder / "place"),
            "FAULTS_SECONDS": "0",
            "FAULTS_VISIBILITY": "60",  # so that the broker is at rest soon after the last kill, not an hour later
            "SCALE_TIMINGS": str(self.folder / "timings"),
        }

    def producer(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a producer."""
        with (self.folder / "logs" / "producer.log").open("ab") as log:
            command = [str(Path(sys.executable).with_name("producer")), *words]
            return subprocess.Popen(command, env=self.environment, cwd=PROJECT, stdout=log, stderr=log)

    def start_worker(self) -> None:
        """Start a worker in a process group of its own."""
        self._started += 1
        with (self.folder / "logs" / f"worker-{self._started}.log").open("wb") as log:
            command = [sys.executable, "-m", "benchmarks.scale_worker"]
            how = {"env": self.environment, "cwd": PROJECT, "stdin": subprocess.DEVNULL, "start_new_session": True}
            self.workers.append(subprocess.Popen(command, stdout=log, stderr=log, **how))  # type: ignore[call-overload]

    def kill_oldest(self) -> None:
        """End the worker that has been at work longest, all of its processes at once, with SIGKILL."""
        worker = self.workers.pop(0)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def resident(self) -> list[int]:
        """Return, for each worker, the bytes of memory that its processes have together."""
        sums = []
        for worker in self.workers:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(worker.pid)
                sums.append(sum(resident(p) for p in [parent, *parent.children(recursive=True)]))
        return sums

    def queue(self) -> dict[str, int]:
        """Return how full the broker is: bytes, bells that wait, bells in hand."""
        with self.broker.client() as client:
            return {
                "broker_bytes": int(client.info("memory")["used_memory"]),
                "bells": client.llen(f"{KEYS}captions"),
                "in_hand": client.hlen(f"{KEYS}unacked"),
            }

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every table and index."""
        query = (
            "SELECT name, sum(pgsize) FROM dbstat GROUP BY name"
            if self.db.is_sqlite
            else "SELECT relname, pg_relation_size(oid) FROM pg_class"
            " WHERE relkind IN ('r', 'i', 't') AND relnamespace::regnamespace::text IN ('public', 'pg_toast')"
        )
        return {name: int(size) for name, size in self.ask(query) if size}

    def ask(self, query: str) -> list[sa.Row[tuple[object, ...]]]:
        """Return the rows of a query."""
        with self.db.reading() as connection:
            return list(connection.exec_driver_sql(query).all())

    def one(self, query: str) -> int:
        """Return the number that a query gives."""
        return int(str(self.ask(query)[0][0] or 0))

    def close(self) -> None:
        """End everything."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        self.db.close()
        self.broker.close()
        if self.postgres is not None:
            self.postgres.close()


def resident(process: psutil.Process) -> int:
    """Return the bytes of memory of a process; 0 when it has gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
