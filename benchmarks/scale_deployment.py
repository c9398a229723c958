"""The deployment that a scale run measures: a broker, a database, producers and workers, each a real process."""

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
from tests.faults.stub_captioner import MODEL_RUNS
from tests.support.postgres import PostgresServer
from tests.support.valkey import KEY_PREFIX, Broker

PROJECT = Path(__file__).parents[1]


class Deployment:
    """Servers and processes with all their files below one folder."""

    def __init__(self, folder: Path, store: str, model: str = "stub") -> None:
        self.folder, self._model = folder, model
        folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
        for name in ("faults", "timings", "logs"):
            (folder / name).mkdir(exist_ok=True)
        self.broker = Broker(folder / "broker")
        self.broker.start()
        self.postgres = PostgresServer(folder / "postgres") if store == "postgresql" else None
        self.url = f"sqlite:///{folder}/captions.sqlite"
        if self.postgres is not None:
            self.url = self.postgres.url(self.postgres.create_database())
        self.db = Database(self.url)
        migrations.upgrade(self.db)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started = 0

    @property
    def environment(self) -> dict[str, str]:
        """The environment of producers and workers. Sizes of chunks and batches and the lease are the defaults."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CAPTIONING_", "FAULTS_"))}
        return inherited | {
            "CAPTIONING_DATA_DIR": str(self.folder / "data"),
            "CAPTIONING_BROKER_URL": self.broker.url,
            "CAPTIONING_DATABASE_URL": self.url,
            "PYTHONPATH": str(PROJECT),
            "FAULTS_DIR": str(self.folder / "faults"),
            "SCALE_TIMINGS": str(self.folder / "timings"),
            "SCALE_MODEL": self._model,
        }

    @property
    def model_runs_file(self) -> Path:
        """The file with one byte for each image that went through the model."""
        return self.folder / "faults" / MODEL_RUNS

    # -- processes --

    def start_producer(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "logs" / "producer.log").open("ab") as log:
            command = [str(Path(sys.executable).with_name("producer")), *arguments]
            return subprocess.Popen(command, env=self.environment, cwd=PROJECT, stdout=log, stderr=log)

    def start_worker(self) -> None:
        """Start a worker in a process group of its own."""
        self._started += 1
        with (self.folder / "logs" / f"worker-{self._started}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scale_worker"],
                env=self.environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(worker)

    def kill_oldest_worker(self) -> None:
        """End all processes of the worker that was started first, with SIGKILL."""
        worker = self.workers.pop(0)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        self.db.close()
        self.broker.close()
        if self.postgres is not None:
            self.postgres.close()

    # -- measurements --

    def worker_memory(self) -> list[int]:
        """Return the resident memory of each worker, all its processes together, in bytes."""
        sums = []
        for worker in self.workers:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(worker.pid)
                sums.append(sum(resident_bytes(p) for p in [parent, *parent.children(recursive=True)]))
        return sums

    def broker_usage(self) -> dict[str, int]:
        """Return the broker's memory in bytes, and its numbers of waiting and of unacknowledged messages."""
        with self.broker.client() as client:
            return {
                "broker_bytes": int(client.info("memory")["used_memory"]),
                "messages": client.llen(f"{KEY_PREFIX}captions"),
                "unacknowledged": client.hlen(f"{KEY_PREFIX}unacked"),
            }

    def table_sizes(self) -> dict[str, int]:
        """Return the size of each table and index in bytes."""
        query = (
            "SELECT name, sum(pgsize) FROM dbstat GROUP BY name"
            if self.db.is_sqlite
            else "SELECT relname, pg_relation_size(oid) FROM pg_class"
            " WHERE relkind IN ('r', 'i', 't') AND relnamespace::regnamespace::text IN ('public', 'pg_toast')"
        )
        return {name: int(size) for name, size in self.rows(query) if size}

    def rows(self, query: str) -> list[sa.Row[tuple[object, ...]]]:
        with self.db.reading() as connection:
            return list(connection.exec_driver_sql(query).all())

    def number(self, query: str) -> int:
        """Return the one number that a query gives; 0 for NULL."""
        return int(str(self.rows(query)[0][0] or 0))


def resident_bytes(process: psutil.Process) -> int:
    """Return the resident memory of a process; 0 when the process has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
