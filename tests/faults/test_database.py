"""Databases that crash, cut links, lock, fill up, turn read-only or are down: nothing is done twice, no image fails."""

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
from tests.faults.world import CHUNK_SIZE, ITEMS, World
from tests.support.polling import wait_until
from tests.support.postgres import PostgresServer

on_postgresql = pytest.mark.stores("postgresql")
on_sqlite = pytest.mark.stores("sqlite")


@pytest.fixture
def slow(world: World) -> World:
    """A world in which the job takes long enough to be disturbed."""
    world.settings["FAULTS_SECONDS_PER_IMAGE"] = "0.2"
    return world


def server(world: World) -> PostgresServer:
    assert world.postgres is not None
    return world.postgres


def assert_no_image_is_blamed(world: World) -> None:
    assert world.scalar("SELECT sum(attempts) FROM items") == 0


# -- PostgreSQL: connections and commits --


@on_postgresql
@pytest.mark.scenario("D1", "PostgreSQL crashes and restarts in the middle of a job, three times", quick=True)
def test_workers_wait_for_a_database_that_crashes(slow: World) -> None:
    slow.start_worker()
    slow.start_worker()
    slow.submit()
    for finished in (4, 12, 20):
        slow.wait_for_items(finished)
        server(slow).stop()
        time.sleep(0.5)
        server(slow).start()
        slow.db.engine.dispose()
    slow.mark_fault()
    slow.faults = 6
    slow.wait_for_recovery()
    assert_no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.scenario("D2", "all database sessions are terminated every 2 s, six times")
def test_workers_reopen_sessions_that_are_terminated(slow: World) -> None:
    slow.start_worker()
    slow.start_worker()
    slow.submit()
    for _ in range(6):
        time.sleep(2)
        server(slow).execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{slow.database}'"
        )
        slow.db.engine.dispose()
    slow.mark_fault()
    slow.faults = 12
    slow.wait_for_recovery()
    assert_no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.parametrize(
    "before",
    [
        pytest.param(True, marks=pytest.mark.scenario("D3a", "the link is cut before COMMIT reaches the server")),
        pytest.param(False, marks=pytest.mark.scenario("D3b", "the link is cut before the answer to COMMIT arrives")),
    ],
)
def test_a_commit_with_an_unknown_result_is_repeated_without_counting_twice(slow: World, before: bool) -> None:
    proxy = Proxy(
        server(slow).socket_file,
        cut_at=b"COMMIT",
        cut_after=b"COPY captions",
        cut_before_forwarding=before,
        max_cuts=5,
    )
    slow.start_worker(CAPTIONING_DATABASE_URL=server(slow).url(slow.database, proxy.port))
    slow.submit()
    wait_until(lambda: proxy.cuts >= 3, 60, "three commits to be cut")
    slow.mark_fault()
    slow.faults = 5
    slow.wait_for_recovery()
    assert_no_image_is_blamed(slow)
    captioned, runs = (slow.scalar(f"SELECT sum({column}) FROM chunks") for column in ("captioned", "model_runs"))
    assert captioned == runs
    proxy.close()


# -- PostgreSQL: locks --


@on_postgresql
@pytest.mark.scenario("D4a", "another session locks the table of captions for 10 s")
def test_workers_wait_for_a_locked_table(slow: World) -> None:
    slow.start_worker()
    slow.submit()
    slow.wait_for_items(4)
    with psycopg.connect(f"host={server(slow).socket} user=postgres dbname={slow.database}") as connection:
        connection.execute("LOCK TABLE captions IN ACCESS EXCLUSIVE MODE")
        time.sleep(10)
    slow.mark_fault()
    slow.faults = 3
    slow.wait_for_recovery()
    assert_no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.scenario("D4b", "a worker's transaction is aborted by a deadlock, three times")
def test_a_transaction_aborted_by_a_deadlock_is_retried(slow: World) -> None:
    slow.start_worker()
    slow.submit()
    slow.wait_for_items(4)
    before = deadlocks(slow)
    with psycopg.connect(f"host={server(slow).socket} user=postgres dbname={slow.database}", autocommit=True) as own:
        own.execute("SET deadlock_timeout = '30s'")  # the worker's is 1 s, so PostgreSQL aborts the worker
        for _ in range(3):
            with own.transaction():
                own.execute("SELECT id FROM jobs FOR UPDATE")
                wait_until(lambda: waits_for_lock(slow), 20, "the worker to request the job's row")
                own.execute("SELECT id FROM chunks WHERE state <> 'done' FOR UPDATE")
    slow.mark_fault()
    wait_until(lambda: deadlocks(slow) >= before + 3, 20, "three deadlocks to be counted")
    slow.faults = 3
    slow.wait_for_recovery()
    assert_no_image_is_blamed(slow)


def deadlocks(world: World) -> int:
    rows = server(world).execute(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{world.database}'")
    return int(str(rows[0][0]))


def waits_for_lock(world: World) -> bool:
    query = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{world.database}' AND wait_event_type = 'Lock'"
    return bool(server(world).execute(query))


@on_postgresql
@pytest.mark.scenario("D4c", "a worker is stopped inside the transaction that writes captions, and killed later")
def test_a_transaction_of_a_stopped_worker_delays_no_other_chunk(slow: World) -> None:
    slow.submit()
    stopped = slow.start_worker("inside_commit@3:stop")
    slow.wait_for_fault("inside_commit")
    slow.start_worker()
    # Less than the 60 s after which PostgreSQL ends the transaction of the stopped worker.
    wait_until(lambda: slow.finished_items >= ITEMS - CHUNK_SIZE, 45, "every chunk but the one of the stopped worker")
    slow.kill(stopped)
    slow.mark_fault()
    slow.wait_for_recovery()


# -- PostgreSQL: space, permissions, connections --


@on_postgresql
@pytest.mark.scenario("D5a", "the disk with the captions is full for a while")
def test_workers_wait_for_space_on_a_full_disk(slow: World) -> None:
    slow.submit()
    with small_disk(slow.folder.parent / f"disk-{slow.database}", "2m") as disk, tables_on(slow, disk):
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - 8192))
        slow.start_worker()
        wait_until(lambda: "No space left" in slow.log(), 60, "the disk to be full")
        time.sleep(6)  # longer than CAPTIONING_DATABASE_RETRY_SECONDS
        ballast.unlink()
        slow.mark_fault()
        slow.faults = 5
        slow.wait_for_recovery()
        assert_no_image_is_blamed(slow)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small disk. Skips the test without the permission to do so."""
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    if mount.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def tables_on(world: World, disk: Path) -> Iterator[None]:
    """Keep captions and images on another disk while the context lasts."""
    space = f"small_{world.database}"
    if user := server(world).server.system_user:
        shutil.chown(disk, user)
    disk.chmod(0o700)
    server(world).execute(f"CREATE TABLESPACE {space} LOCATION '{disk}'")
    try:
        for table in ("captions", "images"):
            server(world).execute(f"ALTER TABLE {table} SET TABLESPACE {space}", world.database)
        yield
    finally:
        (disk / "ballast").unlink(missing_ok=True)
        for table in ("captions", "images"):
            server(world).execute(f"ALTER TABLE {table} SET TABLESPACE pg_default", world.database)
        server(world).execute(f"DROP TABLESPACE {space}")


@on_postgresql
@pytest.mark.scenario("D5b", "the database is read-only for 8 s")
def test_workers_wait_for_a_read_only_database(slow: World) -> None:
    slow.start_worker()
    slow.submit()
    slow.wait_for_items(4)
    for value, seconds in (("on", 8), ("off", 0)):
        server(slow).execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        server(slow).execute("SELECT pg_reload_conf()")
        time.sleep(seconds)
    server(slow).execute("ALTER SYSTEM RESET default_transaction_read_only")
    slow.mark_fault()
    slow.faults = 3
    slow.wait_for_recovery()
    assert_no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.scenario("D5c", "the database allows a worker one connection, where it needs three, for 12 s")
def test_workers_wait_for_a_free_connection(slow: World) -> None:
    role = f"few_{slow.database}"
    server(slow).execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
    server(slow).execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}", slow.database)
    server(slow).execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}", slow.database)
    slow.submit()
    url = server(slow).url(slow.database).replace("postgres@", f"{role}@")
    slow.start_worker(CAPTIONING_DATABASE_URL=url)
    time.sleep(12)
    server(slow).execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    slow.mark_fault()
    slow.faults = 3
    slow.wait_for_recovery()
    assert_no_image_is_blamed(slow)


# -- PostgreSQL: outages --


@on_postgresql
@pytest.mark.scenario("D6a", "the database is down when a worker starts")
def test_a_starting_worker_waits_for_its_database(slow: World) -> None:
    slow.submit()
    slow.settings["CAPTIONING_DATABASE_RETRY_SECONDS"] = "20"
    server(slow).stop()
    worker = slow.start_worker()
    wait_until(lambda: "waiting_for_database" in slow.log(), 30, "the worker to log that it waits")
    server(slow).start()
    slow.db.engine.dispose()
    slow.mark_fault()
    slow.wait_for_recovery()
    assert slow.is_alive(worker)


@on_postgresql
@pytest.mark.scenario("D6b", "the database is down for 20 s, four times as long as a task waits for it")
def test_a_long_outage_counts_as_no_attempt(slow: World) -> None:
    worker = slow.start_worker()
    slow.submit()
    slow.wait_for_items(4)
    server(slow).stop()
    time.sleep(20)
    server(slow).start()
    slow.db.engine.dispose()
    slow.mark_fault()
    slow.faults = 2
    slow.wait_for_recovery()
    assert slow.is_alive(worker)
    assert_no_image_is_blamed(slow)


@on_postgresql
@pytest.mark.scenario("D6c", "the database and the broker are both down for 8 s")
def test_workers_wait_for_database_and_broker_at_once(slow: World) -> None:
    worker = slow.start_worker()
    slow.submit()
    slow.wait_for_items(4)
    server(slow).stop()
    slow.broker.kill()
    time.sleep(8)
    slow.broker.start()
    server(slow).start()
    slow.db.engine.dispose()
    slow.mark_fault()
    slow.faults = 2
    slow.wait_for_recovery()
    assert slow.is_alive(worker)


# -- SQLite --


@on_sqlite
@pytest.mark.scenario("D7a", "another program holds SQLite's write lock for 8 s, four times as long as a worker waits")
def test_workers_wait_for_a_locked_file(slow: World) -> None:
    worker = slow.start_worker()
    slow.submit()
    slow.wait_for_items(4)
    other = sqlite3.connect(slow.folder / "captions.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(8)
    other.execute("ROLLBACK")
    other.close()
    slow.mark_fault()
    slow.faults = 3
    slow.wait_for_recovery()
    assert slow.is_alive(worker)
    assert_no_image_is_blamed(slow)


@on_sqlite
@pytest.mark.scenario("D7b", "workers are killed inside transactions, five times")
def test_a_file_is_intact_after_its_writers_were_killed(slow: World) -> None:
    slow.submit()
    for n in range(1, 6):
        worker = slow.start_worker(f"inside_commit@{2 * n}:kill")
        wait_until(lambda worker=worker: not slow.is_alive(worker), 60, "the worker to be killed")
    slow.mark_fault()
    slow.faults = 5
    slow.start_worker()
    slow.wait_for_recovery()


@on_sqlite
@pytest.mark.scenario("D7c", "the worker's writes to its disk fail for 8 s")
def test_workers_wait_for_space_for_the_file(slow: World) -> None:
    worker = slow.start_worker()
    slow.submit()
    slow.wait_for_items(4)
    processes = [worker, *worker.children()]
    for process in processes:
        process.rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
    time.sleep(8)
    for process in processes:
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    slow.mark_fault()
    slow.faults = 3
    slow.wait_for_recovery()
    assert slow.is_alive(worker)
    assert_no_image_is_blamed(slow)
