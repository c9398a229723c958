"""One Celery task for each image: the product's captioner in a worker, a row for each task in SQLite.

The worker fetches some messages ahead and acknowledges each after its commit, as ours does. One process uses all cores
for an image; two processes are TRIED in `benchmarks.compare_rows`.
"""

import os
import sqlite3
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from celery import Celery, signals

from benchmarks.competitors.common import FINISHED, arguments, bundle_of, pixels_of
from captioning.model.captioner import Captioner
from captioning.model.runtime import choose_runtime, load_captioner
from captioning.values import DecodeOptions
from tests.support.valkey import valkey

ROWS = "captions.sqlite"

app = Celery("competitor", broker=os.environ.get("COMPETITOR_BROKER"))
app.conf.update(task_ignore_result=True, task_acks_late=True, worker_hijack_root_logger=False)


@cache
def captioner() -> Captioner:
    cache_folder = os.environ["COMPETITOR_CACHE"]
    return load_captioner(bundle_of(os.environ["COMPETITOR_MODEL"]), choose_runtime(), Path(cache_folder))


@signals.worker_process_init.connect
def _load(**_: object) -> None:
    captioner()


@cache
def rows() -> sqlite3.Connection:
    connection = sqlite3.connect(Path(os.environ["COMPETITOR_OUT"]) / ROWS, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS captions (name TEXT PRIMARY KEY, caption TEXT, finished_at REAL)")
    return connection


@app.task(name="caption")
def caption(path: str, beam: int) -> None:
    """Caption one image and commit its row."""
    (made,) = captioner().caption([pixels_of(Path(path))], DecodeOptions(beam_size=beam))
    rows().execute("INSERT OR REPLACE INTO captions VALUES (?, ?, ?)", (Path(path).name, made.text, time.time()))


def main() -> None:
    given = arguments(__doc__, concurrency=1, prefetch=8)
    with valkey(given.out / "broker") as broker:
        app.conf.broker_url = broker
        os.environ |= {
            "COMPETITOR_BROKER": broker,
            "COMPETITOR_OUT": str(given.out),
            "COMPETITOR_MODEL": given.model,
            "COMPETITOR_CACHE": str(given.cache),
        }
        command = ["-m", "celery", "-A", "benchmarks.competitors.celery_tasks", "worker", "--without-gossip"]
        command += ["--without-mingle", f"--concurrency={given.concurrency}", f"--prefetch-multiplier={given.prefetch}"]
        worker = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
        try:
            with app.connection_for_write() as connection:  # one connection for all messages
                for path in given.images:
                    caption.apply_async((str(path), given.beam), connection=connection)
            while rows().execute("SELECT count(*) FROM captions").fetchone()[0] < len(given.images):
                if worker.poll() is not None:
                    raise SystemExit(f"the worker stopped with exit code {worker.returncode}")
                time.sleep(0.1)
        finally:
            worker.terminate()
            worker.wait(30)
    times = rows().execute("SELECT finished_at FROM captions ORDER BY 1").fetchall()
    (given.out / FINISHED).write_text("".join(f"{finished_at} 1\n" for (finished_at,) in times))


if __name__ == "__main__":
    main()
