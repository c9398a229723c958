"""Workers as the database knows them: heartbeats, who is alive, and which worker may sweep now."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from captioning.store.bulk import insert_or_ignore
from captioning.store.database import CLOCK_STEP_SECONDS, Database, now
from captioning.store.schema import Sweep, Worker
from captioning.values import DecodeCapability

ALIVE_SECONDS = 30.0  # since a worker's last heartbeat; after that it counts as gone


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker announces about itself."""

    name: str
    host: str
    models: tuple[str, ...]  # digests
    runtime: str
    capability: DecodeCapability = field(default_factory=DecodeCapability)


@dataclass(frozen=True)
class LiveWorker:
    """A worker with a recent heartbeat."""

    name: str
    host: str
    runtime: str
    models: list[str]  # digests
    roots: list[str]  # names of the roots with work that it sees
    dropped_messages: int
    heartbeat_at: float  # seconds since 1970, by the database's clock
    seconds_ago: float


def heartbeat(db: Database, worker: WorkerInfo, roots: Sequence[str], dropped_messages: int = 0) -> None:
    """Record that a worker is alive, which roots with work it sees, and how many messages it dropped so far."""
    values = {
        "host": worker.host,
        "heartbeat_at": now(),
        "models": list(worker.models),
        "roots": list(roots),
        "runtime": worker.runtime,
        "dropped_messages": dropped_messages,
        "capability": worker.capability.to_text(),
    }
    with db.writing() as connection:
        at = connection.execute(sa.select(now())).scalar_one()
        insert_or_ignore(connection, Worker, [values | {"name": worker.name, "heartbeat_at": at}])
        connection.execute(sa.update(Worker).where(Worker.name == worker.name).values(**values))


def remove_worker(db: Database, name: str) -> None:
    """Delete the row of a worker that is shutting down."""
    with db.writing() as connection:
        connection.execute(sa.delete(Worker).where(Worker.name == name))


def live_workers(db: Database) -> list[LiveWorker]:
    """Return the workers that are alive, by name."""
    ago = sa.func.abs(now() - Worker.heartbeat_at)  # abs: the clock may have been set back since
    query = sa.select(Worker, ago.label("ago")).where(ago < ALIVE_SECONDS).order_by(Worker.name)
    with db.reading() as connection:
        rows = connection.execute(query).all()
    return [
        LiveWorker(r.name, r.host, r.runtime, r.models, r.roots, r.dropped_messages, r.heartbeat_at, float(r.ago))
        for r in rows
    ]


def capabilities(db: Database) -> list[DecodeCapability]:
    """Return what the workers that are alive can decode."""
    alive = sa.func.abs(now() - Worker.heartbeat_at) < ALIVE_SECONDS
    query = sa.select(Worker.capability).where(alive, Worker.capability.is_not(None)).distinct()
    with db.reading() as connection:
        return [DecodeCapability.from_text(text) for text in connection.execute(query).scalars() if text]


def take_sweep_turn(db: Database, interval_seconds: float) -> bool:
    """Return whether the calling worker is the one to sweep now. One worker gets the turn per interval."""
    void = Sweep.next_at > now() + interval_seconds + CLOCK_STEP_SECONDS  # the clock was set back since
    due = sa.update(Sweep).where(sa.or_(Sweep.next_at <= now(), void)).values(next_at=now() + interval_seconds)
    with db.writing() as connection:
        return connection.execute(due.returning(Sweep.id)).one_or_none() is not None


def try_to_write(db: Database) -> None:
    """Write and take it back. Raises StoreUnavailable when the database cannot be written to."""
    with db.reading() as connection:
        connection.execute(sa.update(Sweep).values(next_at=Sweep.next_at))
        connection.rollback()
