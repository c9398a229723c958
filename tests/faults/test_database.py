"""Databases that crash, cut links, lock, fill up, turn read-only or are away: nothing twice, no image blamed."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.faults.proxy import Proxy
from tests.faults.servers import PostgresServer
from tests.faults.world import CHUNK, ITEMS, World
from tests.support.servers import wait_until

on_postgresql = pytest.mark.stores("postgresql")
on_sqlite = pytest.mark.stores("sqlite")


@pytest.fixture
def slow(world: World) -> World:
    """A world in which the job lasts, so that there is something to disturb."""
    world.settings["FAULTS_SECONDS"] = "0.2"
    return world


def server(world: World) -> PostgresServer:
    assert world.postgres is not None
    return world.postgres


def no_image_is_blamed(world: World) -> None:
    assert world.one("SELECT sum(attempts) FROM items") == 0


@on_postgresql
@pytest.mark.cell("D1", "PostgreSQL crashes and restarts in the middle of a job, three times", quick=True)
def test_a_database_that_crashes_is_waited_for(slow: World) -> None:
    slow.worker()
    slow.worker()
    slow.submit()
    for done in (4, 12, 20):
        slow.wait_done(done)
        server(slow).stop()
        time.sleep(0.5)
        server(slow).start()
        slow.db.engine.dispose()
    slow.struck()
    slow.faults = 6
    slow.recover()
    no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.cell("D2", "all sessions of the database are ended, every 2 s, six times")
def test_sessions_that_are_ended_are_opened_again(slow: World) -> None:
    slow.worker()
    slow.worker()
    slow.submit()
    for _ in range(6):
        time.sleep(2)
        server(slow).ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{slow.database}'")
        slow.db.engine.dispose()
    slow.struck()
    slow.faults = 12
    slow.recover()
    no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.parametrize(
    "before",
    [
        pytest.param(True, marks=pytest.mark.cell("D3a", "the link is cut with COMMIT on its way")),
        pytest.param(False, marks=pytest.mark.cell("D3b", "the link is cut with its answer on its way")),
    ],
)
def test_a_commit_of_unknown_outcome_is_looked_up_not_believed(slow: World, before: bool) -> None:
    proxy = Proxy(
        server(slow).socket_file, cut_at=b"COMMIT", cut_after=b"INTO captions", cut_before=before, most_cuts=5
    )
    slow.worker(CAPTIONING_DATABASE_URL=server(slow).url(slow.database, proxy.port))
    slow.submit()
    wait_until(lambda: proxy.cuts >= 3, 60, "commits to be cut")
    slow.struck()
    slow.faults = 5
    slow.recover()
    no_image_is_blamed(slow)
    captioned, runs = (slow.one(f"SELECT sum({n}) FROM chunks") for n in ("captioned", "model_runs"))
    assert captioned == runs
    proxy.close()


@on_postgresql
@pytest.mark.cell("D4a", "somebody locks the table of captions for 10 s")
def test_a_locked_table_is_waited_for(slow: World) -> None:
    slow.worker()
    slow.submit()
    slow.wait_done(4)
    with psycopg.connect(f"host={server(slow).socket} user=postgres dbname={slow.database}") as connection:
        connection.execute("LOCK TABLE captions IN ACCESS EXCLUSIVE MODE")
        time.sleep(10)
    slow.struck()
    slow.faults = 3
    slow.recover()
    no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.cell("D4b", "a worker is the victim of a deadlock, three times")
def test_a_deadlock_is_tried_again(slow: World) -> None:
    slow.worker()
    slow.submit()
    slow.wait_done(4)
    before = deadlocks(slow)
    with psycopg.connect(f"host={server(slow).socket} user=postgres dbname={slow.database}", autocommit=True) as mine:
        mine.execute("SET deadlock_timeout = '30s'")  # the other one, whose is 1 s, is to be the victim
        for _ in range(3):
            with mine.transaction():
                mine.execute("SELECT id FROM jobs FOR UPDATE")
                wait_until(lambda: waits_for_lock(slow), 20, "the worker to want the job's row")
                mine.execute("SELECT id FROM chunks WHERE state <> 'done' FOR UPDATE")
    slow.struck()
    wait_until(lambda: deadlocks(slow) >= before + 3, 20, "three deadlocks to be counted, none of them ours")
    slow.faults = 3
    slow.recover()
    no_image_is_blamed(slow)


def deadlocks(world: World) -> int:
    rows = server(world).ask(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{world.database}'")
    return int(str(rows[0][0]))


def waits_for_lock(world: World) -> bool:
    query = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{world.database}' AND wait_event_type = 'Lock'"
    return bool(server(world).ask(query))


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk that is soon full. Skips where only root may and we aren't."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@on_postgresql
@pytest.mark.cell("D4c", "a worker is frozen inside the transaction that writes captions, and killed later")
def test_a_transaction_that_stands_still_holds_up_nobody_else(slow: World) -> None:
    slow.submit()
    frozen = slow.worker("recording@3:stop")
    slow.wait_for_strike("recording")
    slow.worker()
    wait_until(lambda: slow.done >= ITEMS - CHUNK, 20, "all but the chunk that is in the frozen hand")
    slow.kill(frozen)
    slow.struck()
    slow.recover()


@on_postgresql
@pytest.mark.cell("D5a", "the disk of the captions is full for a while")
def test_a_full_disk_is_waited_for(slow: World) -> None:
    slow.submit()
    with small_disk(slow.folder.parent / f"disk-{slow.database}", "2m") as disk, moved_to(slow, disk):
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - 8192))
        slow.worker()
        wait_until(lambda: "No space left" in slow.log(), 60, "the disk to be full")
        time.sleep(6)  # longer than a task waits for a database
        ballast.unlink()
        slow.struck()
        slow.faults = 5
        slow.recover()
        no_image_is_blamed(slow)


@contextmanager
def moved_to(world: World, disk: Path) -> Iterator[None]:
    """Keep captions and images on another disk while this lasts."""
    space = f"small_{world.database}"
    if user := server(world).server.system_user:
        shutil.chown(disk, user)
    disk.chmod(0o700)
    server(world).ask(f"CREATE TABLESPACE {space} LOCATION '{disk}'")
    try:
        for table in ("captions", "images"):
            server(world).ask(f"ALTER TABLE {table} SET TABLESPACE {space}", world.database)
        yield
    finally:
        (disk / "ballast").unlink(missing_ok=True)
        for table in ("captions", "images"):
            server(world).ask(f"ALTER TABLE {table} SET TABLESPACE pg_default", world.database)
        server(world).ask(f"DROP TABLESPACE {space}")


@on_postgresql
@pytest.mark.cell("D5b", "the database is read-only for 8 s")
def test_a_read_only_database_is_waited_for(slow: World) -> None:
    slow.worker()
    slow.submit()
    slow.wait_done(4)
    for value, seconds in (("on", 8), ("off", 0)):
        server(slow).ask(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        server(slow).ask("SELECT pg_reload_conf()")
        time.sleep(seconds)
    server(slow).ask("ALTER SYSTEM RESET default_transaction_read_only")
    slow.struck()
    slow.faults = 3
    slow.recover()
    no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.cell("D5c", "the database lets each worker in once where it needs to three times, for 10 s")
def test_a_database_without_a_free_connection_is_waited_for(slow: World) -> None:
    role = f"few_{slow.database}"
    server(slow).ask(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
    server(slow).ask(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}", slow.database)
    server(slow).ask(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}", slow.database)
    slow.submit()
    url = server(slow).url(slow.database).replace("postgres@", f"{role}@")
    slow.worker(CAPTIONING_DATABASE_URL=url)
    time.sleep(12)
    server(slow).ask(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    slow.struck()
    slow.faults = 3
    slow.recover()
    no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.cell("D6a", "the database is down when a worker starts")
def test_a_worker_waits_for_its_database(slow: World) -> None:
    slow.submit()
    slow.settings["CAPTIONING_OUTAGE_SECONDS"] = "20"
    server(slow).stop()
    worker = slow.worker()
    wait_until(lambda: "waiting_for_database" in slow.log(), 30, "the worker to say so")
    server(slow).start()
    slow.db.engine.dispose()
    slow.struck()
    slow.recover()
    assert slow.alive(worker)


@on_postgresql
@pytest.mark.cell("D6b", "the database is down for 20 s, four times as long as a task waits for it")
def test_a_long_outage_burns_no_attempt(slow: World) -> None:
    worker = slow.worker()
    slow.submit()
    slow.wait_done(4)
    server(slow).stop()
    time.sleep(20)
    server(slow).start()
    slow.db.engine.dispose()
    slow.struck()
    slow.faults = 2
    slow.recover()
    assert slow.alive(worker)
    no_image_is_blamed(slow)


@on_sqlite
@pytest.mark.cell("D7a", "another program holds SQLite's write lock four times as long as we wait")
def test_a_locked_file_is_waited_for(slow: World) -> None:
    worker = slow.worker()
    slow.submit()
    slow.wait_done(4)
    other = sqlite3.connect(slow.folder / "captions.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(8)
    other.execute("ROLLBACK")
    other.close()
    slow.struck()
    slow.faults = 3
    slow.recover()
    assert slow.alive(worker)
    no_image_is_blamed(slow)


@on_sqlite
@pytest.mark.cell("D7b", "workers are killed inside transactions, five times")
def test_a_file_whose_writers_were_killed_is_whole(slow: World) -> None:
    slow.submit()
    for n in range(1, 6):
        slow.worker(f"recording@{2 * n}:kill")
        wait_until(lambda n=n: not slow.alive(slow.workers[n - 1]), 60, "the worker to be killed")
    slow.struck()
    slow.faults = 5
    slow.worker()
    slow.recover()


@on_sqlite
@pytest.mark.cell("D7c", "the worker may write no more to its disk for 8 s")
def test_a_full_disk_under_sqlite_is_waited_for(slow: World) -> None:
    worker = slow.worker()
    slow.submit()
    slow.wait_done(4)
    limited = [worker, *worker.children()]
    for process in limited:
        process.rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
    time.sleep(8)
    for process in limited:
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    slow.struck()
    slow.faults = 3
    slow.recover()
    assert slow.alive(worker)
    no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.cell("D6c", "the database and the broker are both down for 8 s")
def test_when_both_are_away_both_are_waited_for(slow: World) -> None:
    worker = slow.worker()
    slow.submit()
    slow.wait_done(4)
    server(slow).stop()
    slow.broker.kill()
    time.sleep(8)
    slow.broker.start()
    server(slow).start()
    slow.db.engine.dispose()
    slow.struck()
    slow.faults = 2
    slow.recover()
    assert slow.alive(worker)
