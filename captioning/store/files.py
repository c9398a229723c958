"""Roots and files: what a walk found where, and which of it needs a caption."""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.errors import StoreUnavailable, UsageError
from captioning.paths import hash_of, is_below, text_of
from captioning.store.bulk import insert_new, insert_or_ignore, is_one_of, update_rows
from captioning.store.chunks import enqueue, lock_job, requeue
from captioning.store.database import Database
from captioning.store.pairs import Pairs, partner_path
from captioning.store.preferred import keep_captions_of_people
from captioning.store.schema import Capability, Caption, Chunk, File, Image, Item, Model, Mount, Root
from captioning.values import ChunkState, DecodeCapability, ItemState, Reason, Source

NO_FAILURE: dict[str, Any] = {"failed_reason": None, "failed_detail": None, "failed_capability_id": None}
"""Values of a file that has not failed as it is now."""


@dataclass(frozen=True)
class FoundFile:
    """A file below a root as a walk saw it."""

    path: bytes
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int | None = None  # None: not known
    mount: str | None = None  # identity of the mount on which it lies (captioning.mounts); None: not known
    has_stored_content: bool | None = None  # whether its bytes are those that the store knows; None: not compared
    is_ordered: bool = False  # it is read fastest after the file that was found before it: a member of an archive
    partner: bytes | None = None  # name of the image beside it that has the same caption
    has_pixels: bool = True  # it can be captioned without its partner


@dataclass(frozen=True)
class ReusePolicy:
    """Which files need no work: a job does not caption them again, or does not try them again."""

    model_id: int
    model_name: str
    stale: bool  # captions by an older bundle of the same name do not count
    force: bool  # no caption counts
    verify: bool = False  # compare the content of all files, not only of those with a new ctime
    retry_failed: bool = False  # files that cannot be decoded are tried again
    capabilities: tuple[DecodeCapability, ...] = ()  # of the workers that run; with a greater one, they are tried again


@dataclass(frozen=True)
class Registered:
    """The result of registering some files. Those in `unverified` are neither counted nor queued."""

    file_ids: tuple[int, ...]  # one per file that was found, except the unverified ones
    new: int  # files that got an item in the job
    known: int  # files that need no work
    failed_before: int = 0  # files that cannot be decoded, as an earlier job found
    unverified: tuple[tuple[FoundFile, str], ...] = ()  # files to be compared with the SHA-256 that the store knows
    requeued: int = 0  # items of the job that are pending again


@dataclass(frozen=True)
class RootPath:
    """A root and its path."""

    id: int
    path: bytes

    def relative(self, path: bytes) -> bytes:
        """Return a path at or below the root, which is absolute, as `files` stores it."""
        return path[len(self.path.rstrip(b"/")) + 1 :]


def roots(db: Database) -> list[RootPath]:
    """Return all roots, the deepest first: a file belongs to the first root in this list that contains it."""
    with db.reading() as connection:
        rows = connection.execute(sa.select(Root.id, Root.path_bytes)).all()
    return sorted((RootPath(*row) for row in rows), key=lambda root: -len(root.path))


def at_paths(keys: Iterable[tuple[int, bytes]]) -> sa.ColumnElement[bool]:
    """Return the condition for a file to be at one of some paths, given as root and hash of the path below it.

    The root is part of it, because the index begins with the root: without it every file would be read.
    """
    by_root: dict[int, list[bytes]] = {}
    for root_id, path_hash in keys:
        by_root.setdefault(root_id, []).append(path_hash)
    same = (sa.and_(File.root_id == root, File.path_hash.in_(hashes)) for root, hashes in by_root.items())
    return sa.or_(sa.false(), *same)


def find_file(db: Database, path: bytes) -> int | None:
    """Return the id of the file at an absolute path; None if the store does not know it."""
    for root in roots(db):
        if is_below(path, root.path):
            query = sa.select(File.id).where(File.root_id == root.id, File.path_hash == hash_of(root.relative(path)))
            with db.reading() as connection:
                file_id: int | None = connection.execute(query).scalar()
            if file_id is not None:
                return file_id
    return None


def at_or_below(root: RootPath, path: bytes, file: Any = File) -> sa.ColumnElement[bool]:
    """Return the condition for a file to be in a root and at or below a path, which is absolute.

    `file` is `File` or an alias of it.
    """
    in_root = file.root_id == root.id
    if is_below(root.path, path):
        return in_root  # type: ignore[no-any-return]  # `file` may be an alias
    if not is_below(path, root.path):
        return sa.false()
    start = root.relative(path)
    inside = sa.and_(file.path_bytes > start + b"/", file.path_bytes < start + b"0")  # '0' follows '/'
    return sa.and_(in_root, sa.or_(file.path_bytes == start, inside))


def ensure_root(db: Database, path: bytes) -> None:
    """Make a folder a root, named after itself, unless it is a root or below one already."""
    with db.writing() as connection:
        while True:
            rows = connection.execute(sa.select(Root.path_bytes, Root.name)).all()
            if any(is_below(path, row.path_bytes) for row in rows):
                return
            wanted = text_of(path).rstrip("/").rpartition("/")[2] or "root"
            name = _free_name(wanted, {row.name for row in rows})
            row = {"name": name, "path": text_of(path), "path_bytes": path, "path_hash": hash_of(path)}
            insert_or_ignore(connection, Root, [row])  # another submit may take the name first: the loop tries the next


def _free_name(wanted: str, taken: set[str]) -> str:
    wanted = wanted.replace(",", "_").replace("=", "_")  # separators in CAPTIONING_ROOTS
    names = (wanted, *(f"{wanted}-{i}" for i in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def register(
    db: Database, job_id: int, root_id: int, found: Sequence[FoundFile], policy: ReusePolicy, chunk_size: int
) -> Registered:
    """Update files and a job's items to what a walk found, in one transaction.

    A file with a new size or time, or other content, loses its link to content until a worker reads it. If it is an
    item of the job already, the item is queued again, unless it still waits for its first worker. Files of the same
    size are queued next to each other, so that copies of one image usually meet in one chunk; ordered files follow
    them in the order in which they were found.

    A file of which only the ctime is new may have other content with its old time put back. It is returned as
    `unverified`; the caller compares it and registers it again with `has_stored_content`.

    Raises UsageError when the job was removed.
    """
    with db.writing() as connection:
        if not lock_job(connection, job_id):
            raise UsageError(f"job {job_id} was removed by `producer forget` meanwhile.")
        upserted = _upsert(connection, root_id, found, verify=policy.verify)
        registered = [f for f in found if f.path in upserted.ids]
        file_ids = tuple(upserted.ids[f.path] for f in registered)
        size_at = {f.path: f.size for f in registered}
        near = (  # the size of the file that it reads
            size_at.get(partner_path(f.path, f.partner), f.size) if f.partner else f.size for f in registered
        )
        sizes = dict(zip(file_ids, near, strict=True))
        old_ids = [i for i in sizes if i not in upserted.new]  # nothing refers to the others yet
        in_job = _matching(connection, sa.select(Item.file_id).where(Item.job_id == job_id), Item.file_id, old_ids)
        captioned = set() if policy.force else _captioned(connection, old_ids, policy)
        open_ids = [i for i in sizes if i not in in_job and i not in captioned]
        failed = permanently_failed(connection, [i for i in open_ids if i not in upserted.new], policy)
        order = {upserted.ids[f.path]: n for n, f in enumerate(registered) if f.is_ordered}
        todo = sorted((i for i in open_ids if i not in failed), key=lambda i: (order.get(i, -1), sizes[i], i))
        enqueue(connection, job_id, root_id, todo, chunk_size)
        outdated = _outdated_items(connection, job_id, in_job, upserted.changed) if in_job else []
        requeue(connection, job_id, root_id, outdated, chunk_size)
        known = sum(i not in in_job for i in sizes) - len(open_ids)
        return Registered(file_ids, len(todo), known, len(failed), tuple(upserted.unverified), len(outdated))


@dataclass(frozen=True)
class _Upserted:
    ids: dict[bytes, int]  # by path
    new: Set[int]  # ids of the files that had no row
    changed: set[int]  # ids of the files with new content
    unverified: list[tuple[FoundFile, str]]


def _upsert(connection: Connection, root_id: int, found: Sequence[FoundFile], *, verify: bool) -> _Upserted:
    """Insert new files and update changed ones, except those whose content must be compared first."""
    mount_ids = _mount_ids(connection, {f.mount for f in found if f.mount is not None})
    hashes = {f.path: hash_of(f.path) for f in found}
    stored = _stored_files(connection, root_id, {path_hash: path for path, path_hash in hashes.items()})
    pairs = Pairs.of(connection, root_id, found)
    unverified = [
        (f, row.sha256) for f in found if (row := stored.get(f.path)) is not None and _is_unverified(f, row, verify)
    ]
    left_out = {f.path for f, _ in unverified}
    found = [f for f in found if f.path not in left_out]
    rows = [_new_row(root_id, f, hashes[f.path], mount_ids, pairs.partner(f)) for f in found if f.path not in stored]
    new_ids, raced_ids = _insert_files(connection, root_id, rows)
    changed, refreshed = [], []
    for f in found:
        row = stored.get(f.path)
        if row is None:
            continue
        seen = {
            "id": row.id,
            "ctime_ns": row.ctime_ns if f.ctime_ns is None else f.ctime_ns,
            "mount_id": row.mount_id if f.mount is None else mount_ids[f.mount],
        }
        if has_changed(f, row) or pairs.has_changed(f, row):
            pairs.note_change(f.path)
            changed.append(
                seen
                | {"size": f.size, "mtime_ns": f.mtime_ns, "image_id": None, "partner": pairs.partner(f)}
                | NO_FAILURE
            )
        elif (seen["ctime_ns"], seen["mount_id"], None) != (row.ctime_ns, row.mount_id, row.missing_since):
            refreshed.append(seen)
    keep_captions_of_people(connection, [row["id"] for row in changed])
    for rows in (changed, refreshed):
        update_rows(connection, File, [row | {"missing_since": None} for row in rows])
    ids = {path: row.id for path, row in stored.items()} | new_ids | raced_ids
    if any(f.path not in ids for f in found):
        raise StoreUnavailable("a file was removed by `producer forget` while it was registered")  # the caller retries
    changed_ids = {row["id"] for row in changed}
    return _Upserted({f.path: ids[f.path] for f in found}, set(new_ids.values()), changed_ids, unverified)


def _insert_files(
    connection: Connection, root_id: int, rows: Sequence[dict[str, Any]]
) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """Insert files; return the ids of those that are new, and of those that another submit has just inserted."""
    new_ids = insert_new(connection, File, rows, File.path_hash)
    raced = {row["path_hash"]: row["path_bytes"] for row in rows if row["path_hash"] not in new_ids}
    raced_ids = {path: row.id for path, row in _stored_files(connection, root_id, raced).items()}
    return {row["path_bytes"]: new_ids[row["path_hash"]] for row in rows if row["path_hash"] in new_ids}, raced_ids


def _stored_files(connection: Connection, root_id: int, paths: Mapping[bytes, bytes]) -> dict[bytes, Any]:
    """Return the rows of those files that have one, by path; `paths` are by their hashes."""
    if not paths:
        return {}
    columns = (File.id, File.path_hash, File.size, File.mtime_ns, File.ctime_ns, File.mount_id, File.partner)
    query = (
        sa.select(*columns, File.missing_since, File.image_id, Image.sha256)
        .outerjoin(Image, Image.id == File.image_id)
        .where(File.root_id == root_id, is_one_of(connection, File.path_hash, paths))
    )
    return {paths[row.path_hash]: row for row in connection.execute(query)}


def _new_row(
    root_id: int, f: FoundFile, path_hash: bytes, mount_ids: dict[str, int], partner: bytes | None
) -> dict[str, Any]:
    return {
        "root_id": root_id,
        "path": text_of(f.path),
        "path_bytes": f.path,
        "path_hash": path_hash,
        "size": f.size,
        "mtime_ns": f.mtime_ns,
        "ctime_ns": f.ctime_ns,
        "mount_id": None if f.mount is None else mount_ids[f.mount],
        "partner": partner,
    }


def has_changed(f: FoundFile, row: Any) -> bool:
    """Return whether a file has other content than its row says, as far as that is known.

    The row has size, mtime_ns, ctime_ns and image_id.

    Where the row has no content to compare with, a new ctime is a change.
    """
    if (row.size, row.mtime_ns) != (f.size, f.mtime_ns) or f.has_stored_content is False:
        return True
    return row.image_id is None and _has_new_ctime(f, row)


def _is_unverified(f: FoundFile, row: Any, verify: bool) -> bool:
    if f.has_stored_content is not None or row.image_id is None or (row.size, row.mtime_ns) != (f.size, f.mtime_ns):
        return False
    if row.partner is not None:  # the content is that of another file
        return False
    return verify or _has_new_ctime(f, row)


def _has_new_ctime(f: FoundFile, row: Any) -> bool:
    return f.ctime_ns is not None and row.ctime_ns is not None and f.ctime_ns != row.ctime_ns


def clear_failures(connection: Connection, file_ids: Sequence[int]) -> None:
    """Forget why files failed, because they are tried again."""
    update_rows(connection, File, [{"id": file_id} | NO_FAILURE for file_id in file_ids])


def _mount_ids(connection: Connection, identities: set[str]) -> dict[str, int]:
    """Make sure that mounts have rows; return their ids."""
    insert_or_ignore(connection, Mount, [{"identity": identity} for identity in sorted(identities)])
    query = sa.select(Mount.identity, Mount.id).where(Mount.identity.in_(identities))
    return {row.identity: row.id for row in connection.execute(query)}


def permanently_failed(connection: Connection, file_ids: Sequence[int], policy: ReusePolicy) -> set[int]:
    """Return which files failed for a permanent reason and would fail again with the workers that run."""
    if policy.retry_failed or not file_ids:
        return set()
    query = (
        sa.select(File.id, File.failed_reason, Capability.text)
        .join(Capability, Capability.id == File.failed_capability_id)
        .where(File.failed_reason.is_not(None), is_one_of(connection, File.id, file_ids))
    )
    failed = {row.id: (row.failed_reason, row.text) for row in connection.execute(query)}
    may_succeed = {failure: _may_succeed(*failure, policy.capabilities) for failure in set(failed.values())}
    return {file_id for file_id, failure in failed.items() if not may_succeed[failure]}


def _may_succeed(reason: str, text: str, capabilities: Iterable[DecodeCapability]) -> bool:
    earlier = DecodeCapability.from_text(text)
    return any(capability.exceeds(earlier, reason) for capability in capabilities)


def _outdated_items(connection: Connection, job_id: int, file_ids: Collection[int], changed: set[int]) -> list[int]:
    """Return the items of a job with a result, or a worker at work, for a file as it was before it changed.

    An item that is captioned though its file has no content was overtaken by a change that another submit recorded.
    One that failed because its file was missing, or changed all the time, is tried again: the file is there now.
    Items that no worker has started need nothing: their file is read as it is by then.
    """
    query = sa.select(Item.id).join(File, File.id == Item.file_id).join(Chunk, Chunk.id == Item.chunk_id)
    query = query.where(Item.job_id == job_id)
    started = sa.or_(Item.state != ItemState.PENDING, Chunk.state == ChunkState.RUNNING)
    overtaken = sa.and_(Item.state.in_((ItemState.CAPTIONED, ItemState.REUSED)), File.image_id.is_(None))
    found_again = sa.and_(Item.state == ItemState.FAILED, Item.reason.in_((Reason.MISSING, Reason.CHANGED)))
    return sorted(
        _matching(connection, query.where(started), File.id, changed)
        | _matching(connection, query.where(sa.or_(overtaken, found_again)), File.id, file_ids)
    )


def _matching(connection: Connection, query: sa.Select[Any], column: Any, values: Collection[int]) -> set[int]:
    if not values:
        return set()
    return set(connection.execute(query.where(is_one_of(connection, column, values))).scalars())


def counts_as_captioned(policy: ReusePolicy) -> sa.ColumnElement[bool]:
    """Return, as SQL on a caption and its model, whether the caption makes the files of its image known."""
    by_model = Caption.model_id == policy.model_id if policy.stale else Model.name == policy.model_name
    return sa.or_(Caption.source == Source.HUMAN, by_model)


def _captioned(connection: Connection, file_ids: Sequence[int], policy: ReusePolicy) -> set[int]:
    query = (
        sa.select(File.id)
        .join(Caption, Caption.image_id == File.image_id)
        .outerjoin(Model, Model.id == Caption.model_id)
        .where(counts_as_captioned(policy))
    )
    return _matching(connection, query, File.id, file_ids)
