"""The tables. The migration, the export view and the search index are in `migrations/`.

Times are seconds since 1970 in UTC by the database's clock, so that machines with different clocks agree on leases.
Paths are stored as bytes, which are exact, and as text for people. `python -m scripts.reference` turns the docstrings
and the comments of columns into docs/reference/schema.md.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON().with_variant(JSONB(), "postgresql")
BigKey = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only in an INTEGER key


_OPEN = text("state <> 'done'")
_FAILED = text("state = 'failed'")
_OF_FILE = text("file_id IS NOT NULL")
_HAS_FAILED = text("failed_reason IS NOT NULL")


def is_open() -> ColumnElement[bool]:
    """Return the condition for a chunk to be open, written exactly as in the partial indexes, or they are not used."""
    return Chunk.state != literal_column("'done'")


def is_failed() -> ColumnElement[bool]:
    """Return the condition for an item to have failed, written exactly as in its partial index, for the same reason."""
    return Item.state == literal_column("'failed'")


def has_failed() -> ColumnElement[bool]:
    """Return the condition for a file to have failed as it is now."""
    return File.failed_reason.is_not(None)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Root(Base):
    """A folder as it was submitted. Workers on other machines map its name to their own mount."""

    __tablename__ = "roots"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    path: Mapped[str] = mapped_column(Text)
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    path_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)


class Image(Base):
    """The content of an image, however many files hold it."""

    __tablename__ = "images"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    sha256: Mapped[str] = mapped_column(Text, unique=True)
    width: Mapped[int] = mapped_column(Integer)  # pixels, upright
    height: Mapped[int] = mapped_column(Integer)  # pixels, upright
    format: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    pixels: Mapped[str | None] = mapped_column(Text)  # digest of what the encoder reads: equal after an edit of EXIF


class Mount(Base):
    """A mounted file system as a walk saw it. It tells deleted files from those of a disk that is not mounted."""

    __tablename__ = "mounts"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    identity: Mapped[str] = mapped_column(Text, unique=True)  # source, type, root and mount point


class Capability(Base):
    """What a worker could decode when a file failed: formats and limits."""

    __tablename__ = "capabilities"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(Text, unique=True)  # JSON of captioning.values.DecodeCapability


class File(Base):
    """A path below a root, and what was last seen there."""

    __tablename__ = "files"
    __table_args__ = (
        UniqueConstraint("root_id", "path_hash"),
        Index("ix_files_failed", "id", sqlite_where=_HAS_FAILED, postgresql_where=_HAS_FAILED),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    root_id: Mapped[int] = mapped_column(ForeignKey("roots.id"))
    path: Mapped[str] = mapped_column(Text)  # below the root; bytes that are not UTF-8 are %XX
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    path_hash: Mapped[bytes] = mapped_column(LargeBinary)  # 16 bytes: PostgreSQL cannot index a long path itself
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    image_id: Mapped[int | None] = mapped_column(ForeignKey("images.id"), index=True)  # content at that size and time
    missing_since: Mapped[float | None] = mapped_column(Double)
    ctime_ns: Mapped[int | None] = mapped_column(BigInteger)  # tells a change after which size and mtime are as before
    mount_id: Mapped[int | None] = mapped_column(ForeignKey("mounts.id"))  # on which it was last seen
    failed_reason: Mapped[str | None] = mapped_column(Text)  # why the last attempt failed, as the file is now
    failed_detail: Mapped[str | None] = mapped_column(Text)
    failed_capability_id: Mapped[int | None] = mapped_column(ForeignKey("capabilities.id"))  # not tried again


class Model(Base):
    """A model bundle that made captions, or will."""

    __tablename__ = "models"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text, index=True)
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))  # its captions go before other models'
    card: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[float] = mapped_column(Double)


class Job(Base):
    """One `submit`: what to caption, with which model, and its state."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_key_state", "key", "state"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    key: Mapped[str] = mapped_column(Text)  # digest of the request: the same submit continues the job
    name: Mapped[str] = mapped_column(Text)
    options: Mapped[dict[str, Any]] = mapped_column(Json)  # DecodeOptions
    options_digest: Mapped[str] = mapped_column(Text)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    force: Mapped[bool] = mapped_column(server_default=text("false"))  # caption images that have a caption too
    priority: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # higher first
    state: Mapped[str] = mapped_column(Text)
    registered: Mapped[bool] = mapped_column(server_default=text("false"))  # the walk of its folders is complete
    known: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # files that needed no work
    skipped: Mapped[dict[str, Any]] = mapped_column(Json)  # counts of skipped files, by category
    last_claimed_at: Mapped[float] = mapped_column(Double, server_default=text("0"))  # later after a long turn
    created_at: Mapped[float] = mapped_column(Double)
    finished_at: Mapped[float | None] = mapped_column(Double)
    failed_before: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # files not tried: they would fail


class ForgottenJob(Base):
    """The number of a job that was removed. It is not given to another job."""

    __tablename__ = "forgotten_jobs"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class Chunk(Base):
    """The unit that a worker claims: some items of a job, all below one root."""

    __tablename__ = "chunks"
    __table_args__ = (
        UniqueConstraint("job_id", "seq"),
        Index("ix_chunks_open", "job_id", "seq", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_chunks_open_root", "root_id", "job_id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    root_id: Mapped[int] = mapped_column(ForeignKey("roots.id"))
    seq: Mapped[int] = mapped_column(Integer)  # order within the job
    state: Mapped[str] = mapped_column(Text)
    fence: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # fencing token, raised by claims
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # without progress, see the glossary
    deferrals: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # releases in a row, files unreachable
    worker: Mapped[str | None] = mapped_column(Text)
    leased_at: Mapped[float | None] = mapped_column(Double)  # when the lease, or the backoff, was last set
    lease_until: Mapped[float | None] = mapped_column(Double)  # of a pending chunk: the end of its backoff
    last_error: Mapped[str | None] = mapped_column(Text)  # why it was released, until there is progress
    size: Mapped[int] = mapped_column(Integer)  # items
    captioned: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    reused: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    model_runs: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class Item(Base):
    """One file's place in a job."""

    __tablename__ = "items"
    __table_args__ = (
        UniqueConstraint("job_id", "file_id"),
        Index("ix_items_failed", "job_id", "reason", sqlite_where=_FAILED, postgresql_where=_FAILED),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    file_id: Mapped[int] = mapped_column(ForeignKey("files.id"), index=True)
    chunk_id: Mapped[int] = mapped_column(ForeignKey("chunks.id"), index=True)
    state: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # decode processes that died with it
    finished_at: Mapped[float | None] = mapped_column(Double)


class Caption(Base):
    """A caption of an image, who wrote it, and how."""

    __tablename__ = "captions"
    __table_args__ = (
        Index(
            "uq_captions_machine",
            "image_id",
            "model_id",
            "options_digest",
            unique=True,
            sqlite_where=text("source = 'machine'"),
            postgresql_where=text("source = 'machine'"),
        ),
        Index("ix_captions_image_id", "image_id"),
        Index("ix_captions_file_id", "file_id", sqlite_where=_OF_FILE, postgresql_where=_OF_FILE),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    source: Mapped[str] = mapped_column(Text)  # machine, human or imported
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    options_digest: Mapped[str | None] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    confidence: Mapped[float | None] = mapped_column(Double)  # 0 to 1
    log_probability: Mapped[float | None] = mapped_column(Double)  # nats
    weakest_word: Mapped[str | None] = mapped_column(Text)
    word_log_probabilities: Mapped[list[float] | None] = mapped_column(Json)  # nats, the end token last
    alternatives: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    runtime: Mapped[str | None] = mapped_column(Text)
    precision: Mapped[str | None] = mapped_column(Text)
    software: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Double)
    unlike: Mapped[bool | None]  # the image is unlike those that the model learned from
    file_id: Mapped[int | None] = mapped_column(ForeignKey("files.id"))  # that a person wrote it for, and it follows
    original: Mapped[str | None] = mapped_column(Text)  # what the model wrote, where `text` was edited
    withdrawn_at: Mapped[float | None] = mapped_column(Double)  # when it was taken back; it is not shown any more


class Change(Base):
    """What one command of a person did to captions. It can be undone as a whole."""

    __tablename__ = "changes"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    verb: Mapped[str] = mapped_column(Text)  # correct, accept, replace, import, export or undo
    detail: Mapped[dict[str, Any]] = mapped_column(Json)  # the command's arguments
    person: Mapped[str] = mapped_column(Text)  # user@host
    created_at: Mapped[float] = mapped_column(Double)
    undone_by: Mapped[int | None] = mapped_column(ForeignKey("changes.id"))  # the change that took it back


class Edit(Base):
    """One caption that a change wrote, rewrote or took back."""

    __tablename__ = "edits"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    change_id: Mapped[int] = mapped_column(ForeignKey("changes.id"), index=True)
    caption_id: Mapped[int] = mapped_column(ForeignKey("captions.id"), index=True)
    file_id: Mapped[int | None] = mapped_column(ForeignKey("files.id"), index=True)  # of the path that was named
    before: Mapped[str | None] = mapped_column(Text)  # the text before; null: there was none
    after: Mapped[str | None] = mapped_column(Text)  # the text after; null: the caption was taken back


class Sidecar(Base):
    """A file beside an image, or in a mirrored tree, of which an export wrote at least a part."""

    __tablename__ = "sidecars"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    path_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)  # as in `files`
    change_id: Mapped[int] = mapped_column(ForeignKey("changes.id"), index=True)  # the export that last wrote it
    how: Mapped[str] = mapped_column(Text)  # new, overwrite, append, prepend or merge
    before: Mapped[bytes | None] = mapped_column(LargeBinary)  # what a person had there; null: no file
    replaced: Mapped[str | None] = mapped_column(Text)  # SHA-256 of the file before the last write; null: no file
    written: Mapped[str] = mapped_column(Text)  # SHA-256 of the file that is written, or was to be when a process died


class Worker(Base):
    """A worker that is running, or was."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    host: Mapped[str] = mapped_column(Text)
    heartbeat_at: Mapped[float] = mapped_column(Double)
    models: Mapped[list[str]] = mapped_column(Json)  # digests
    roots: Mapped[list[str]] = mapped_column(Json)  # names of the roots with work that it sees
    runtime: Mapped[str] = mapped_column(Text)
    dropped_messages: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # not wake-up messages
    capability: Mapped[str | None] = mapped_column(Text)  # JSON of captioning.values.DecodeCapability


class Sweep(Base):
    """One row: the earliest time at which a worker may sweep (look for work that no message announced)."""

    __tablename__ = "sweeps"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    next_at: Mapped[float] = mapped_column(Double)
