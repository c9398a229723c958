"""Chunks in workers' hands: claimed by a lease, guarded by a fence, committed a micro-batch at a time.

A claim is one UPDATE..RETURNING, so two workers never get one chunk. Every claim raises the chunk's fence; a
worker that was paused or cut off finds the fence moved on and its commit changes nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.store.database import Database, now
from captioning.store.files import insert_or_nothing, last_chunk, lock_job
from captioning.store.jobs import settle
from captioning.store.schema import Caption, Chunk, File, Image, Item, Job, Model, Root, Sweep, Worker, is_open
from captioning.values import Caption as Said
from captioning.values import ChunkState, DecodeOptions, ItemState, JobState, PictureFacts, Reason, Source


@dataclass(frozen=True)
class Work:
    """One picture to caption."""

    item_id: int
    file_id: int
    path: bytes  # below the root
    size: int
    mtime_ns: int
    crashes: int  # decoders that died with it in hand so far
    was_missed: bool  # a walk since then didn't find it either


@dataclass(frozen=True)
class Claim:
    """A chunk in hand."""

    chunk_id: int
    job_id: int
    root_id: int
    fence: int
    model_id: int
    model_digest: str
    options: DecodeOptions
    force: bool
    waits: int  # times in a row that it was given back because files were out of sight
    work: tuple[Work, ...]
    claimed_at: float = field(default_factory=time.monotonic)  # by this process's clock, seconds


@dataclass(frozen=True)
class Content:
    """What was read of a file."""

    sha256: str
    bytes: int
    facts: PictureFacts | None  # None when the content was known already and not opened


@dataclass(frozen=True)
class Outcome:
    """How one picture went. `said` is there when the model ran on it, `reason` when it failed."""

    work: Work
    state: ItemState
    content: Content | None = None
    said: Said | None = None
    reason: Reason | None = None
    detail: str | None = None


@dataclass(frozen=True)
class MadeBy:
    """What goes with every machine caption."""

    runtime: str
    precision: str
    software: str


class Fenced(Exception):
    """The chunk in hand was taken away; nothing of ours was written."""


# -- claiming --

SPLIT_CRASHES = 2  # deaths of workers with a chunk in hand, without progress between, before it is claimed in halves
_LONG_TURN_SECONDS = 5.0  # with one chunk, after which the job's next turn is put off
_REST_SECONDS, _LONGEST_REST = 5.0, 600.0  # before a chunk that outlived n workers is handed out again: n * n * 5 s
_CLOCK_STEP_SECONDS = 5.0  # by which the database's clock may be set back with no lease void by that
_LONGEST_TURN_SECONDS = 600.0  # by which a job's next turn can be put off


def _rest() -> sa.ColumnElement[float]:
    """Return how long a chunk rests after a death, longer after each: what kills workers mustn't kill them all day."""
    rest = _REST_SECONDS * Chunk.crashes * Chunk.crashes
    return sa.case((rest > _LONGEST_REST, _LONGEST_REST), else_=rest)


def _free(roots: Sequence[int] | None) -> sa.ColumnElement[bool]:
    """Tell, of a chunk, whether it may be taken: pending and rested, or its lease has run out.

    A lease that was given in the future is void: the clock was set back since, and it would last as much longer.
    """
    pending = sa.and_(Chunk.state == ChunkState.PENDING, sa.func.coalesce(Chunk.lease_until, 0) < now())
    abandoned = sa.and_(Chunk.state == ChunkState.RUNNING, Chunk.lease_until + _rest() < now())
    void = Chunk.leased_at > now() + _CLOCK_STEP_SECONDS
    free = sa.and_(is_open(), sa.or_(pending, abandoned, void))
    return free if roots is None else sa.and_(free, Chunk.root_id.in_(roots))


def _servable(models: Sequence[str]) -> sa.ColumnElement[bool]:
    """Tell, of a job, whether a worker with these models may work for it."""
    here = sa.select(Model.id).where(Model.digest.in_(models))
    return sa.and_(Job.state == JobState.ACTIVE, Job.model_id.in_(here))


def claim(db: Database, worker: str, models: Sequence[str], roots: Sequence[int], lease_seconds: float) -> Claim | None:
    """Take the best chunk there is, or None. An expired lease counts as a crash of the chunk.

    Jobs by priority, then the one served longest ago; in a job, the first free chunk. The job is found first, so
    that a claim costs the same however many chunks are waiting.
    """
    with db.writing() as connection:
        wanted = sa.and_(_servable(models), sa.exists().where(Chunk.job_id == Job.id, _free(roots)).correlate(Job))
        void = Job.served_at > now() + _LONGEST_TURN_SECONDS + _CLOCK_STEP_SECONDS  # the clock was set back since
        served = sa.case((void, 0.0), else_=Job.served_at)
        best_jobs = sa.select(Job.id).where(wanted).order_by(Job.priority.desc(), served, Job.id).limit(16)
        for job_id in connection.execute(best_jobs).scalars().all():
            taken = _take(connection, job_id, worker, models, roots, lease_seconds)
            if taken is not None:  # else others just took what it had
                return _claimed(connection, taken)
    return None


def _take(
    connection: Connection, job_id: int, worker: str, models: Sequence[str], roots: Sequence[int], lease_seconds: float
) -> Any:
    first = sa.select(Chunk.id).where(Chunk.job_id == job_id, _free(roots)).order_by(Chunk.seq).limit(1)
    take = sa.update(Chunk).where(
        Chunk.id == first.with_for_update(skip_locked=True).scalar_subquery(),
        sa.exists().where(Job.id == Chunk.job_id, _servable(models)),
    )
    take = take.values(
        state=ChunkState.RUNNING,
        fence=Chunk.fence + 1,
        crashes=Chunk.crashes + sa.case((Chunk.state == ChunkState.RUNNING, 1), else_=0),
        worker=worker,
        **_lease(lease_seconds),
    ).returning(Chunk.id, Chunk.job_id, Chunk.root_id, Chunk.fence, Chunk.crashes, Chunk.waits)
    taken = connection.execute(take).one_or_none()
    served = sa.update(Job).where(Job.id == job_id, Job.state == JobState.ACTIVE).values(served_at=now())
    if taken is not None and connection.execute(served).rowcount == 0:  # it was cancelled while we took the chunk
        back = {"state": ChunkState.PENDING, "lease_until": None, "leased_at": None}
        connection.execute(sa.update(Chunk).where(Chunk.id == taken.id).values(**back))
        return None
    return taken


def _claimed(connection: Connection, taken: Any) -> Claim:
    job = connection.execute(
        sa.select(Job.options, Job.force, Model.id, Model.digest)
        .join(Model, Model.id == Job.model_id)
        .where(Job.id == taken.job_id)
    ).one()
    rows = connection.execute(
        sa.select(
            Item.id,
            File.id,
            File.path_bytes,
            File.size,
            File.mtime_ns,
            Item.crashes,
            File.missing_since.is_not(None),
        )
        .join(File, File.id == Item.file_id)
        .where(Item.chunk_id == taken.id, Item.state == ItemState.PENDING)
        .order_by(Item.id)
    ).all()
    work = [Work(*row) for row in rows]
    if taken.crashes >= SPLIT_CRASHES and len(work) > 1:
        work, rest = work[: len(work) // 2], work[len(work) // 2 :]
        _put_aside(connection, taken, rest)
    options = DecodeOptions(**job.options)
    return Claim(
        taken.id, taken.job_id, taken.root_id, taken.fence, job.id, job.digest, options, job.force, taken.waits,
        tuple(work),
    )  # fmt: skip


def _put_aside(connection: Connection, taken: Any, work: Sequence[Work]) -> None:
    """Make a new chunk, at the end of the job, of half a chunk that outlives its workers.

    A picture that is fine gets away from one that kills whole workers in a few steps. Nobody is failed by this: a
    worker may have died of anything. The job was locked when its turn was noted.
    """
    seq = last_chunk(connection, taken.job_id) + 1
    row = {"job_id": taken.job_id, "root_id": taken.root_id, "seq": seq, "state": ChunkState.PENDING}
    row |= {"size": len(work), "crashes": taken.crashes}
    aside = connection.execute(sa.insert(Chunk).values(**row).returning(Chunk.id)).scalar_one()
    connection.execute(sa.update(Item).where(Item.id.in_([w.item_id for w in work])).values(chunk_id=aside))
    connection.execute(sa.update(Chunk).where(Chunk.id == taken.id).values(size=Chunk.size - len(work)))


def roots_with_work(db: Database) -> list[tuple[int, str, bytes]]:
    """Return the roots (id, name, path) in which an active job has open chunks."""
    open_chunk = sa.exists().where(Chunk.root_id == Root.id, Chunk.job_id == Job.id, is_open()).correlate(Root, Job)
    wanted = sa.exists().where(Job.state == JobState.ACTIVE, open_chunk).correlate(Root)
    with db.reading() as connection:
        rows = connection.execute(sa.select(Root.id, Root.name, Root.path_bytes).where(wanted)).all()
    return [(row.id, row.name, row.path_bytes) for row in rows]


def count_claimable(db: Database, models: Sequence[str], roots: Sequence[int] | None, limit: int) -> int:
    """Return how many chunks could be claimed now, counting no further than `limit`."""
    some = sa.select(Chunk.id).join(Job, Job.id == Chunk.job_id).where(_servable(models), _free(roots)).limit(limit)
    with db.reading() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one())


# -- while in hand --


def renew(db: Database, claim: Claim, lease_seconds: float) -> None:
    """Lengthen the lease; called on progress only, so that a worker that hangs loses it. Raises Fenced."""
    with db.writing() as connection:
        _guard(connection, claim, _lease(lease_seconds))


def note_crash(db: Database, claim: Claim, work: Work) -> None:
    """Remember that a decoder died with this picture in hand. Raises Fenced."""
    with db.writing() as connection:
        _guard(connection, claim, {})
        mine = (Item.id == work.item_id, Item.chunk_id == claim.chunk_id)
        connection.execute(sa.update(Item).where(*mine).values(crashes=Item.crashes + 1))


def known_content(db: Database, claim: Claim, sha256s: Sequence[str]) -> set[str]:
    """Return which contents have a caption by the claim's model and options."""
    query = (
        sa.select(Image.sha256)
        .join(Caption, Caption.image_id == Image.id)
        .where(
            Image.sha256.in_(sha256s),
            Caption.source == Source.MACHINE,
            Caption.model_id == claim.model_id,
            Caption.options_digest == claim.options.digest,
        )
    )
    with db.reading() as connection:
        return set(connection.execute(query).scalars())


def record(db: Database, claim: Claim, outcomes: Sequence[Outcome], made_by: MadeBy, lease_seconds: float) -> None:
    """Commit a micro-batch: captions, insert-or-nothing, items and counts, all or none. Raises Fenced.

    Doing it again changes nothing: who lost the connection during a commit can't know how it ended.
    """
    with db.writing() as connection:
        _guard(connection, claim, _lease(lease_seconds))
        images = _images(connection, [o.content for o in outcomes if o.content is not None])
        _captions(connection, claim, outcomes, images, made_by)  # also of what was moved on: copies count on them
        ids = [o.work.item_id for o in outcomes]
        mine = (Item.chunk_id == claim.chunk_id, Item.state == ItemState.PENDING)  # a retry may have moved some on
        query = sa.select(Item.id).where(Item.id.in_(ids), *mine)
        open_ids = set(connection.execute(query).scalars())
        outcomes = [o for o in outcomes if o.work.item_id in open_ids]
        if not outcomes:
            return
        n = {state: sum(o.state == state for o in outcomes) for state in ItemState}
        counts = {
            "crashes": 0,  # there is progress: whatever killed earlier workers was not this
            "waits": 0,
            "trouble": None,
            "captioned": Chunk.captioned + n[ItemState.CAPTIONED],
            "reused": Chunk.reused + n[ItemState.REUSED],
            "failed": Chunk.failed + n[ItemState.FAILED],
            "model_runs": Chunk.model_runs + sum(o.said is not None for o in outcomes),
        }
        _guard(connection, claim, counts)
        _files(connection, outcomes, images)
        at = connection.execute(sa.select(now())).scalar_one()
        rows = [
            {"row": o.work.item_id, "state": o.state, "reason": o.reason, "detail": o.detail, "finished_at": at}
            for o in sorted(outcomes, key=lambda o: o.work.item_id)
        ]
        connection.execute(sa.update(Item).where(Item.id == sa.bindparam("row")), rows)


def finish(db: Database, claim: Claim) -> None:
    """Close a chunk whose items are all decided, and its job if it was the last. Raises Fenced."""
    with db.writing() as connection:
        _guard(connection, claim, {"state": ChunkState.DONE, "lease_until": None})
        _count_turn(connection, claim)
        settle(connection, claim.job_id)


def release(
    db: Database,
    claim: Claim,
    rest_seconds: float = 0.0,
    *,
    crashed: bool = False,
    waited: bool = False,
    trouble: str | None = None,
) -> None:
    """Give a chunk back, what is left of it, to rest a while so that others get their turn. Raises Fenced.

    `crashed`: it is the work that fails, not a service; then it rests the longer the more often that happens.
    `waited`: files were out of sight; all other chunks of the job come first now, or those of a large folder would keep
    workers busy with looking. `trouble`: what people are told as long as there is no progress.
    """
    rest = sa.case((_rest() > rest_seconds, _rest()), else_=rest_seconds) if crashed else rest_seconds
    values = {"state": ChunkState.PENDING, "crashes": Chunk.crashes + int(crashed), "waits": Chunk.waits + int(waited)}
    values |= _lease(rest) | ({"trouble": trouble} if trouble else {})
    with db.writing() as connection:
        _guard(connection, claim, values)
        if waited:
            lock_job(connection, claim.job_id)
            seq = last_chunk(connection, claim.job_id) + 1
            connection.execute(sa.update(Chunk).where(Chunk.id == claim.chunk_id).values(seq=seq))
        _count_turn(connection, claim)


def release_all_of(db: Database, worker: str, *, crashed: bool) -> int:
    """Give back what a worker held that is known to be dead; return how many chunks.

    `crashed`: it died at work, of the work perhaps.
    """
    values: dict[str, Any] = {"state": ChunkState.PENDING, "fence": Chunk.fence + 1, "lease_until": None}
    if crashed:
        values |= _lease(_rest()) | {"crashes": Chunk.crashes + 1}
    held = sa.update(Chunk).where(Chunk.worker == worker, Chunk.state == ChunkState.RUNNING, is_open())
    with db.writing() as connection:
        return len(connection.execute(held.values(**values).returning(Chunk.id)).all())


def _lease(seconds: Any) -> dict[str, Any]:
    """Return what is noted down of a lease, or of a rest."""
    return {"lease_until": now() + seconds, "leased_at": now()}


def _count_turn(connection: Connection, claim: Claim) -> None:
    """Let others go first for as long as this job just had a worker, if that was long.

    Jobs take turns by the chunk, and most chunks take much the same time; one of pictures that
    hang takes many times that.
    """
    held = min(time.monotonic() - claim.claimed_at, _LONGEST_TURN_SECONDS)
    if held > _LONG_TURN_SECONDS:
        connection.execute(sa.update(Job).where(Job.id == claim.job_id).values(served_at=now() + held))


def _guard(connection: Connection, claim: Claim, values: dict[str, Any]) -> None:
    """Update the chunk in hand, by which its row is locked, or find out that it isn't ours any more."""
    mine = sa.update(Chunk).where(
        Chunk.id == claim.chunk_id,
        Chunk.fence == claim.fence,
        Chunk.state == ChunkState.RUNNING,
        sa.exists().where(Job.id == Chunk.job_id, Job.state != JobState.CANCELLED),
    )
    if connection.execute(mine.values(**({"fence": claim.fence} | values))).rowcount == 0:
        raise Fenced


def _images(connection: Connection, contents: Sequence[Content]) -> dict[str, int]:
    """Make sure that contents have rows; return their ids by SHA-256. In order, so that two never deadlock."""
    by_sha = {c.sha256: c for c in sorted(contents, key=lambda c: (c.sha256, c.facts is not None))}  # facts win
    opened = [
        {"sha256": c.sha256, "bytes": c.bytes, "width": f.width, "height": f.height, "format": f.format}
        for c in by_sha.values()
        if (f := c.facts) is not None
    ]
    insert_or_nothing(connection, Image, opened)
    query = sa.select(Image.sha256, Image.id).where(Image.sha256.in_(list(by_sha)))
    return {row.sha256: row.id for row in connection.execute(query)}


def _captions(
    connection: Connection, claim: Claim, outcomes: Sequence[Outcome], images: dict[str, int], made_by: MadeBy
) -> None:
    at = connection.execute(sa.select(now())).scalar_one()
    rows = [
        {
            "image_id": images[o.content.sha256],
            "source": Source.MACHINE,
            "model_id": claim.model_id,
            "options_digest": claim.options.digest,
            "text": o.said.text,
            "confidence": o.said.confidence,
            "log_probability": round(o.said.log_probability, 4),
            "weakest_word": o.said.weakest_word,
            "word_log_probabilities": list(o.said.word_log_probabilities),
            "alternatives": [{"text": a.text, "log_probability": a.log_probability} for a in o.said.alternatives],
            "runtime": made_by.runtime,
            "precision": made_by.precision,
            "software": made_by.software,
            "created_at": at,
        }
        for o in outcomes
        if o.said is not None and o.content is not None
    ]
    insert_or_nothing(connection, Caption, sorted(rows, key=lambda row: row["image_id"]))


def _files(connection: Connection, outcomes: Sequence[Outcome], images: dict[str, int]) -> None:
    """Tie files to their content, unless they were registered anew, changed, in the meantime."""
    rows = [
        {"row": o.work.file_id, "was": o.work.size, "at": o.work.mtime_ns, "image_id": images[o.content.sha256]}
        for o in sorted(outcomes, key=lambda o: o.work.file_id)
        if o.content is not None and o.content.sha256 in images
    ]
    if rows:
        same = (File.id == sa.bindparam("row"), File.size == sa.bindparam("was"), File.mtime_ns == sa.bindparam("at"))
        connection.execute(sa.update(File).where(*same).values(image_id=sa.bindparam("image_id")), rows)


# -- workers and the sweep --


@dataclass(frozen=True)
class Presence:
    """What a worker says of itself."""

    name: str
    host: str
    models: tuple[str, ...]
    runtime: str


def say_hello(db: Database, presence: Presence, roots: Sequence[str], dropped: int = 0) -> None:
    """Note that a worker is there, which of the roots with work it sees, and how many messages it dropped."""
    values = {
        "host": presence.host,
        "seen_at": now(),
        "models": list(presence.models),
        "roots": list(roots),
        "runtime": presence.runtime,
        "dropped": dropped,
    }
    with db.writing() as connection:
        at = connection.execute(sa.select(now())).scalar_one()
        insert_or_nothing(connection, Worker, [values | {"name": presence.name, "seen_at": at}])
        connection.execute(sa.update(Worker).where(Worker.name == presence.name).values(**values))


def say_goodbye(db: Database, name: str) -> None:
    """Note that a worker has gone."""
    with db.writing() as connection:
        connection.execute(sa.delete(Worker).where(Worker.name == name))


def my_turn_to_sweep(db: Database, every_seconds: float) -> bool:
    """Tell whether this worker is the one to look for forgotten work now; one is, every so often."""
    void = Sweep.next_at > now() + every_seconds + _CLOCK_STEP_SECONDS  # the clock was set back since
    due = sa.update(Sweep).where(sa.or_(Sweep.next_at <= now(), void)).values(next_at=now() + every_seconds)
    with db.writing() as connection:
        return connection.execute(due.returning(Sweep.id)).one_or_none() is not None
