"""Leases: a worker claims a chunk for a limited time, commits it batch by batch, and completes or releases it.

One `UPDATE ... RETURNING` claims a chunk, so two workers never get the same one. Each claim raises the chunk's fence
(a fencing token: Kleppmann 2016, "How to do distributed locking"). A worker that was paused or cut off and lost its
lease finds a higher fence at its next write: the write changes nothing and raises LeaseLost.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import CaptioningError, LeaseLost, StoreUnavailable
from captioning.store.chunks import complete_job_if_done, last_chunk_seq, lock_job, split_off
from captioning.store.database import CLOCK_STEP_SECONDS, Database, insert_or_ignore, now
from captioning.store.features import NewFeatures, drop_shared_captions, insert_features, share_captions
from captioning.store.files import NO_FAILURE
from captioning.store.pairs import partner_path
from captioning.store.schema import Attention, Capability, Chunk, File, Image, Item, Job, Model, Root, is_open
from captioning.store.schema import Caption as CaptionRow
from captioning.values import (
    Caption,
    ChunkState,
    DecodeCapability,
    DecodeOptions,
    ImageInfo,
    ItemState,
    JobState,
    Reason,
    Source,
)

SPLIT_ATTEMPTS = 2  # attempts without progress (see the glossary) after which a chunk is claimed in halves
LONG_TURN_SECONDS = 5.0  # with one chunk; after a longer turn the job goes behind others of its priority
MAX_TURN_SECONDS = 600.0  # a turn counts as no longer than this
BACKOFF_UNIT_SECONDS, MAX_BACKOFF_SECONDS = 5.0, 600.0  # a chunk waits attempts ** 2 * 5 s


@dataclass(frozen=True)
class ClaimedItem:
    """One file of a claimed chunk that needs a caption."""

    item_id: int
    file_id: int
    path: bytes  # below the root, of what is read: the file itself, or its partner
    size: int  # bytes
    mtime_ns: int
    attempts: int  # decode processes that died while they decoded it
    was_missed: bool  # a later walk of its folder did not find it either
    ctime_ns: int | None = None


@dataclass(frozen=True)
class Claim:
    """A chunk that this worker holds."""

    chunk_id: int
    job_id: int
    root_id: int
    fence: int
    model_id: int
    model_digest: str
    options: DecodeOptions
    force: bool
    deferrals: int  # times in a row that it was released because its files were unreachable
    items: tuple[ClaimedItem, ...]
    skip_near_duplicates: bool = False  # they share the caption of an image that has one
    claimed_at: float = field(default_factory=time.monotonic)  # this process's clock, seconds


@dataclass(frozen=True)
class Content:
    """What was read from a file."""

    sha256: str
    bytes: int
    info: ImageInfo | None  # None when the content has a caption already and was not decoded


@dataclass(frozen=True)
class Outcome:
    """The result for one item. `caption` is set when the model ran on it, `reason` when it failed.

    An item is also reused when its image gets the caption of a near-duplicate, `shared_from`.
    """

    item: ClaimedItem
    state: ItemState
    content: Content | None = None
    caption: Caption | None = None
    reason: Reason | None = None
    detail: str | None = None
    is_permanent: bool = False  # it fails again while the file and what the worker can decode stay the same
    thumbnail: bytes | None = None  # of the image, where it was decoded
    shared_from: str | None = None  # SHA-256 of the content of the near-duplicate


@dataclass(frozen=True)
class Provenance:
    """What is stored with every machine caption about how it was made."""

    runtime: str
    precision: str
    software: str
    capability: DecodeCapability = field(default_factory=DecodeCapability)  # stored with failed files
    encoder: str = ""  # that sees the features, by its key


# -- claiming --


def claim(db: Database, worker: str, models: Sequence[str], roots: Sequence[int], lease_seconds: float) -> Claim | None:
    """Claim the next chunk for a worker that has these models (digests) and sees these roots (ids).

    Jobs are ordered by priority, then by least recent claim; within a job, the first free chunk is taken. Taking over
    an expired lease counts as an attempt. The job is found first, so that a claim costs the same however many chunks
    are waiting. Returns None when there is nothing to claim.
    """
    with db.writing() as connection:
        wanted = sa.and_(_servable(models), sa.exists().where(Chunk.job_id == Job.id, _is_free(roots)).correlate(Job))
        void = Job.last_claimed_at > now() + MAX_TURN_SECONDS + CLOCK_STEP_SECONDS  # the clock was set back since
        last_claimed = sa.case((void, 0.0), else_=Job.last_claimed_at)
        best_jobs = sa.select(Job.id).where(wanted).order_by(Job.priority.desc(), last_claimed, Job.id).limit(16)
        for job_id in connection.execute(best_jobs).scalars().all():
            row = _claim_from_job(connection, job_id, worker, models, roots, lease_seconds)
            if row is not None:  # otherwise other workers have just claimed the job's free chunks
                return _load_claim(connection, row)
    return None


def _backoff() -> sa.ColumnElement[float]:
    """Return how long a chunk waits after a death, in seconds: what kills workers must not kill them all day."""
    seconds = BACKOFF_UNIT_SECONDS * Chunk.attempts * Chunk.attempts
    return sa.case((seconds > MAX_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS), else_=seconds)


def _is_free(roots: Sequence[int] | None) -> sa.ColumnElement[bool]:
    """Return the condition for a chunk to be claimable: pending and past its backoff, or with an expired lease.

    A lease that was granted in the future is void: the clock was set back since, and it would last that much longer.
    """
    pending = sa.and_(Chunk.state == ChunkState.PENDING, sa.func.coalesce(Chunk.lease_until, 0) < now())
    expired = sa.and_(Chunk.state == ChunkState.RUNNING, Chunk.lease_until + _backoff() < now())
    void = Chunk.leased_at > now() + CLOCK_STEP_SECONDS
    free = sa.and_(is_open(), sa.or_(pending, expired, void))
    return free if roots is None else sa.and_(free, Chunk.root_id.in_(roots))


def _servable(models: Sequence[str]) -> sa.ColumnElement[bool]:
    """Return the condition for a job to be served by a worker that has these models (digests)."""
    available = sa.select(Model.id).where(Model.digest.in_(models))
    return sa.and_(Job.state == JobState.ACTIVE, Job.model_id.in_(available))


def _claim_from_job(
    connection: Connection, job_id: int, worker: str, models: Sequence[str], roots: Sequence[int], lease_seconds: float
) -> Any:
    """Claim the first free chunk of a job; return its row, or None."""
    first = sa.select(Chunk.id).where(Chunk.job_id == job_id, _is_free(roots)).order_by(Chunk.seq).limit(1)
    update = sa.update(Chunk).where(
        Chunk.id == first.with_for_update(skip_locked=True).scalar_subquery(),
        sa.exists().where(Job.id == Chunk.job_id, _servable(models)),
    )
    update = update.values(
        state=ChunkState.RUNNING,
        fence=Chunk.fence + 1,
        attempts=Chunk.attempts + sa.case((Chunk.state == ChunkState.RUNNING, 1), else_=0),
        worker=worker,
        **_lease(lease_seconds),
    ).returning(Chunk.id, Chunk.job_id, Chunk.root_id, Chunk.fence, Chunk.attempts, Chunk.deferrals)
    row = connection.execute(update).one_or_none()
    served = sa.update(Job).where(Job.id == job_id, Job.state == JobState.ACTIVE).values(last_claimed_at=now())
    if row is not None and connection.execute(served).rowcount == 0:  # it was cancelled between the two updates
        undo = {"state": ChunkState.PENDING, "lease_until": None, "leased_at": None}
        connection.execute(sa.update(Chunk).where(Chunk.id == row.id).values(**undo))
        return None
    return row


def _load_claim(connection: Connection, row: Any) -> Claim:
    """Read what a worker needs to know of a chunk that it has just claimed; a suspect chunk is split first.

    A chunk that outlives several workers may hold an image that kills them. Claiming it in halves separates that image
    from the others in a few steps. This fails no image: the workers may have died of anything.
    """
    job = connection.execute(
        sa.select(Job.options, Job.force, Job.skip_near_duplicates, Model.id, Model.digest)
        .join(Model, Model.id == Job.model_id)
        .where(Job.id == row.job_id)
    ).one()
    columns = (File.path_bytes, File.partner, Item.id, File.id, File.size, File.mtime_ns, Item.attempts)
    rows = connection.execute(
        sa.select(*columns, File.missing_since.is_not(None), File.ctime_ns)
        .join(File, File.id == Item.file_id)
        .where(Item.chunk_id == row.id, Item.state == ItemState.PENDING)
        .order_by(Item.id)
    ).all()
    items = [_to_item(*item) for item in rows]
    if row.attempts >= SPLIT_ATTEMPTS and len(items) > 1:
        items, others = items[: len(items) // 2], items[len(items) // 2 :]
        ids = [item.item_id for item in others]
        split_off(connection, row.job_id, row.root_id, row.id, ids, row.attempts)  # the claim locked the job's row
    options = DecodeOptions(**job.options)
    return Claim(
        row.id, row.job_id, row.root_id, row.fence, job.id, job.digest, options, job.force,
        row.deferrals, tuple(items), job.skip_near_duplicates,
    )  # fmt: skip


def _to_item(path: bytes, partner: bytes | None, item_id: int, file_id: int, *rest: Any) -> ClaimedItem:
    return ClaimedItem(item_id, file_id, partner_path(path, partner), *rest)


def roots_with_work(db: Database) -> list[tuple[int, str, bytes]]:
    """Return the roots (id, name, path) in which an active job has open chunks."""
    open_chunk = sa.exists().where(Chunk.root_id == Root.id, Chunk.job_id == Job.id, is_open()).correlate(Root, Job)
    wanted = sa.exists().where(Job.state == JobState.ACTIVE, open_chunk).correlate(Root)
    with db.reading() as connection:
        rows = connection.execute(sa.select(Root.id, Root.name, Root.path_bytes).where(wanted)).all()
    return [(row.id, row.name, row.path_bytes) for row in rows]


def count_claimable(db: Database, models: Sequence[str], roots: Sequence[int] | None, limit: int) -> int:
    """Return how many chunks could be claimed now, up to `limit`."""
    claimable = sa.select(Chunk.id).join(Job, Job.id == Chunk.job_id).where(_servable(models), _is_free(roots))
    with db.reading() as connection:
        count = sa.select(sa.func.count()).select_from(claimable.limit(limit).subquery())
        return int(connection.execute(count).scalar_one())


# -- while a worker holds a chunk --


def renew(db: Database, claim: Claim, lease_seconds: float) -> None:
    """Extend the lease. Called after progress only, so that a worker that hangs loses it. Raises LeaseLost."""
    with db.writing() as connection:
        _update_held(connection, claim, _lease(lease_seconds))


def count_attempt(db: Database, claim: Claim, item: ClaimedItem) -> None:
    """Record that a decode process died while it decoded this item. Raises LeaseLost."""
    with db.writing() as connection:
        _update_held(connection, claim, {})
        own = (Item.id == item.item_id, Item.chunk_id == claim.chunk_id)
        connection.execute(sa.update(Item).where(*own).values(attempts=Item.attempts + 1))


def captioned_digests(db: Database, claim: Claim, sha256s: Sequence[str]) -> set[str]:
    """Return which of these contents have a caption by the claim's model and options."""
    with db.reading() as connection:
        return _captioned_digests(connection, claim, sha256s)


def _captioned_digests(connection: Connection, claim: Claim, sha256s: Collection[str]) -> set[str]:
    query = (
        sa.select(Image.sha256)
        .join(CaptionRow, CaptionRow.image_id == Image.id)
        .where(
            Image.sha256.in_(sha256s),
            CaptionRow.source == Source.MACHINE,
            CaptionRow.model_id == claim.model_id,
            CaptionRow.options_digest == claim.options.digest,
        )
    )
    return set(connection.execute(query).scalars())


def commit_batch(
    db: Database, claim: Claim, outcomes: Sequence[Outcome], provenance: Provenance, lease_seconds: float
) -> None:
    """Commit a batch in one transaction: captions, items, files and counts. Extends the lease. Raises LeaseLost.

    Idempotent, because a caller that loses its connection during the commit cannot know how it ended: captions are
    inserted or ignored, and items that are no longer pending in this chunk are skipped.
    """
    with db.writing() as connection:
        _update_held(connection, claim, _lease(lease_seconds))
        image_ids = _insert_images(connection, [o.content for o in outcomes if o.content is not None])
        _insert_captions(connection, claim, outcomes, image_ids, provenance)  # of re-queued items too: copies need them
        _share_captions(connection, claim, outcomes, image_ids)
        insert_features(connection, provenance.encoder, _features(outcomes, image_ids), force=claim.force)
        ids = [o.item.item_id for o in outcomes]
        pending = (Item.chunk_id == claim.chunk_id, Item.state == ItemState.PENDING)
        query = sa.select(Item.id).where(Item.id.in_(ids), *pending)
        open_ids = set(connection.execute(query).scalars())
        outcomes = [o for o in outcomes if o.item.item_id in open_ids]
        if not outcomes:
            return
        _require_captions(connection, claim, [o for o in outcomes if o.state == ItemState.REUSED])
        n = {state: sum(o.state == state for o in outcomes) for state in ItemState}
        counts = {
            "attempts": 0,  # progress: these images did not kill the earlier workers
            "deferrals": 0,
            "last_error": None,
            "captioned": Chunk.captioned + n[ItemState.CAPTIONED],
            "reused": Chunk.reused + n[ItemState.REUSED],
            "failed": Chunk.failed + n[ItemState.FAILED],
            "model_runs": Chunk.model_runs + sum(o.caption is not None for o in outcomes),
        }
        _update_held(connection, claim, counts)
        _update_files(connection, outcomes, image_ids, provenance.capability)
        at = connection.execute(sa.select(now())).scalar_one()
        rows = [
            {"row": o.item.item_id, "state": o.state, "reason": o.reason, "detail": o.detail, "finished_at": at}
            for o in sorted(outcomes, key=lambda o: o.item.item_id)
        ]
        connection.execute(sa.update(Item).where(Item.id == sa.bindparam("row")), rows)


def complete(db: Database, claim: Claim) -> None:
    """Mark a chunk as done, and its job if this was the last open chunk. Raises LeaseLost."""
    with db.writing() as connection:
        _update_held(connection, claim, {"state": ChunkState.DONE, "lease_until": None})
        _let_others_go_first_after_long_turn(connection, claim)
        complete_job_if_done(connection, claim.job_id)


def release(
    db: Database,
    claim: Claim,
    backoff_seconds: float = 0.0,
    *,
    counts_as_attempt: bool = False,
    defer: bool = False,
    error: str | None = None,
) -> None:
    """Return the unfinished rest of a chunk to the queue; it can be claimed again after the backoff. Raises LeaseLost.

    `counts_as_attempt`: the work itself fails, not a service; the backoff then grows with each attempt.
    `defer`: files are unreachable; the chunk moves behind all other chunks of the job, or the chunks of a large
    unmounted folder would keep workers busy with looking.
    `error`: what `producer status` shows until there is progress.
    """
    backoff = sa.case((_backoff() > backoff_seconds, _backoff()), else_=backoff_seconds)
    values: dict[str, Any] = {
        "state": ChunkState.PENDING,
        "attempts": Chunk.attempts + int(counts_as_attempt),
        "deferrals": Chunk.deferrals + int(defer),
    }
    values |= _lease(backoff if counts_as_attempt else backoff_seconds)
    values |= {"last_error": error} if error else {}
    with db.writing() as connection:
        _update_held(connection, claim, values)
        if defer:
            lock_job(connection, claim.job_id)
            seq = last_chunk_seq(connection, claim.job_id) + 1
            connection.execute(sa.update(Chunk).where(Chunk.id == claim.chunk_id).values(seq=seq))
        _let_others_go_first_after_long_turn(connection, claim)


def release_held_by(db: Database, worker: str, *, counts_as_attempt: bool) -> int:
    """Release every chunk of a worker that is known to be dead; return how many.

    `counts_as_attempt`: it died while it was working, perhaps because of the work.
    """
    values: dict[str, Any] = {"state": ChunkState.PENDING, "fence": Chunk.fence + 1, "lease_until": None}
    if counts_as_attempt:
        values |= _lease(_backoff()) | {"attempts": Chunk.attempts + 1}
    held = sa.update(Chunk).where(Chunk.worker == worker, Chunk.state == ChunkState.RUNNING, is_open())
    with db.writing() as connection:
        return len(connection.execute(held.values(**values).returning(Chunk.id)).all())


def _lease(seconds: Any) -> dict[str, Any]:
    """Return the columns of a lease, or of a backoff, that starts now."""
    return {"lease_until": now() + seconds, "leased_at": now()}


def _let_others_go_first_after_long_turn(connection: Connection, claim: Claim) -> None:
    """Order the job behind others of its priority for as long as this claim lasted, if that was long.

    Jobs take turns chunk by chunk, and most chunks take about the same time. A chunk of images that hang takes many
    times that, so the job's `last_claimed_at` is set that far into the future.
    """
    held = min(time.monotonic() - claim.claimed_at, MAX_TURN_SECONDS)
    if held > LONG_TURN_SECONDS:
        connection.execute(sa.update(Job).where(Job.id == claim.job_id).values(last_claimed_at=now() + held))


def _update_held(connection: Connection, claim: Claim, values: dict[str, Any]) -> None:
    """Update the claimed chunk, which locks its row. Raises LeaseLost when it is not this worker's any more."""
    own = sa.update(Chunk).where(
        Chunk.id == claim.chunk_id,
        Chunk.job_id == claim.job_id,  # SQLite gives the number of a forgotten chunk to a later one
        Chunk.fence == claim.fence,
        Chunk.state == ChunkState.RUNNING,
        sa.exists().where(Job.id == Chunk.job_id, Job.state != JobState.CANCELLED),
    )
    if connection.execute(own.values(**({"fence": claim.fence} | values))).rowcount == 0:
        raise LeaseLost(
            f"chunk {claim.chunk_id} of job {claim.job_id} was taken over or cancelled; nothing was written."
        )


def _insert_images(connection: Connection, contents: Sequence[Content]) -> dict[str, int]:
    """Make sure that contents have rows; return their ids by SHA-256. Sorted, so that two workers never deadlock."""
    by_sha = {c.sha256: c for c in sorted(contents, key=lambda c: (c.sha256, c.info is not None))}  # with info wins
    decoded = [
        {"sha256": c.sha256, "bytes": c.bytes, "width": i.width, "height": i.height, "format": i.format,
         "pixels": i.pixels}
        for c in by_sha.values()
        if (i := c.info) is not None
    ]  # fmt: skip
    insert_or_ignore(connection, Image, decoded)
    query = sa.select(Image.sha256, Image.id).where(Image.sha256.in_(list(by_sha)))
    query = query.with_for_update(read=True, key_share=True)  # `producer forget` must not remove one now
    ids = {row.sha256: row.id for row in connection.execute(query)}
    if any(row["sha256"] not in ids for row in decoded):
        raise StoreUnavailable("an image was removed by `producer forget` while it was captioned")  # the caller retries
    return ids


def _insert_captions(
    connection: Connection, claim: Claim, outcomes: Sequence[Outcome], image_ids: dict[str, int], provenance: Provenance
) -> None:
    """Insert the captions of a batch; captions that exist already stay as they are."""
    at = connection.execute(sa.select(now())).scalar_one()
    rows = [
        {
            "image_id": image_ids[o.content.sha256],
            "source": Source.MACHINE,
            "model_id": claim.model_id,
            "options_digest": claim.options.digest,
            "text": o.caption.text,
            "confidence": o.caption.confidence,
            "log_probability": round(o.caption.log_probability, 4),
            "weakest_word": o.caption.weakest_word,
            "word_log_probabilities": list(o.caption.word_log_probabilities),
            "alternatives": [{"text": a.text, "log_probability": a.log_probability} for a in o.caption.alternatives],
            "runtime": provenance.runtime,
            "precision": provenance.precision,
            "software": provenance.software,
            "created_at": at,
            "unlike": o.caption.unlike,
        }
        for o in outcomes
        if o.caption is not None and o.content is not None
    ]
    if claim.force:
        redone = [image_ids[o.content.sha256] for o in outcomes if o.caption is not None and o.content is not None]
        drop_shared_captions(connection, claim.model_id, claim.options.digest, redone)
    insert_or_ignore(connection, CaptionRow, sorted(rows, key=lambda row: row["image_id"]))
    _insert_attention(connection, claim, outcomes, image_ids)


def _insert_attention(
    connection: Connection, claim: Claim, outcomes: Sequence[Outcome], image_ids: dict[str, int]
) -> None:
    """Insert where the model looked, for captions that are as the model has written them now."""
    new = {
        image_ids[o.content.sha256]: (o.caption.text, o.caption.attention)
        for o in outcomes
        if o.caption is not None and o.content is not None and o.caption.attention is not None
    }
    if not new:
        return
    query = sa.select(CaptionRow.id, CaptionRow.image_id, CaptionRow.text).where(
        CaptionRow.image_id.in_(list(new)), CaptionRow.source == Source.MACHINE,
        CaptionRow.model_id == claim.model_id, CaptionRow.options_digest == claim.options.digest,
    )  # fmt: skip
    stored = [(row.id, *new[row.image_id], row.text) for row in connection.execute(query)]
    rows = [{"caption_id": i, "weights": weights} for i, text, weights, as_stored in stored if text == as_stored]
    insert_or_ignore(connection, Attention, sorted(rows, key=lambda row: row["caption_id"]))


def _share_captions(
    connection: Connection, claim: Claim, outcomes: Sequence[Outcome], image_ids: dict[str, int]
) -> None:
    """Give near-duplicates the caption of the image that they are like. It may be one of this batch."""
    sources = {
        image_ids[o.content.sha256]: o.shared_from
        for o in outcomes
        if o.shared_from is not None and o.content is not None
    }
    share_captions(connection, claim.model_id, claim.options.digest, sources)


def _features(outcomes: Sequence[Outcome], image_ids: dict[str, int]) -> list[NewFeatures]:
    return [
        NewFeatures(image_ids[o.content.sha256], o.thumbnail, o.caption.vector if o.caption else None, o.shared_from)
        for o in outcomes
        if o.content is not None and o.thumbnail is not None
    ]


def _require_captions(connection: Connection, claim: Claim, reused: Sequence[Outcome]) -> None:
    """Raise CaptioningError when a caption that a batch reuses was removed meanwhile: its image is to be decoded."""
    sha256s = {o.content.sha256 for o in reused if o.content is not None}
    if sha256s and not sha256s <= _captioned_digests(connection, claim, sha256s):
        raise CaptioningError("a caption was removed by `producer forget` while a copy of its image was captioned")


def _update_files(
    connection: Connection, outcomes: Sequence[Outcome], image_ids: dict[str, int], capability: DecodeCapability
) -> None:
    """Link files to their content, or note why they failed, except files that were registered with changes since."""
    unchanged = (
        File.id == sa.bindparam("row"),
        File.size == sa.bindparam("size_read"),
        File.mtime_ns == sa.bindparam("mtime_read"),
        sa.func.coalesce(File.ctime_ns, 0) == sa.bindparam("ctime_read"),
    )
    succeeded: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    capability_id = _capability_id(connection, capability) if any(o.is_permanent for o in outcomes) else None
    for o in sorted(outcomes, key=lambda o: o.item.file_id):
        read: dict[str, Any] = {"row": o.item.file_id, "size_read": o.item.size, "mtime_read": o.item.mtime_ns}
        read |= {"ctime_read": o.item.ctime_ns or 0}
        if o.reason is not None:
            reason = {"failed_reason": o.reason, "failed_detail": o.detail}
            failed.append(read | reason | {"failed_capability_id": capability_id if o.is_permanent else None})
        elif o.content is not None:
            succeeded.append(read | {"image_id": image_ids[o.content.sha256]} | NO_FAILURE)
    if succeeded:
        connection.execute(sa.update(File).where(*unchanged), succeeded)
    if failed:
        connection.execute(sa.update(File).where(*unchanged), failed)


def _capability_id(connection: Connection, capability: DecodeCapability) -> int:
    insert_or_ignore(connection, Capability, [{"text": capability.to_text()}])
    query = sa.select(Capability.id).where(Capability.text == capability.to_text())
    return connection.execute(query).scalar_one()
