"""The tables. The migration, the export view and the search index are in `migrations/`.

Times are seconds since 1970 in UTC by the database's clock, so that machines with different clocks agree on leases.
Paths are stored as bytes, which are exact, and as text for people. The docstrings and the comments of columns are in
docs/reference/schema.md, and in PostgreSQL on the tables and columns themselves (see `migrations.comments`).
"""

from enum import StrEnum
from inspect import cleandoc
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from captioning.values import ChunkState, ItemState, JobState, Reason

Json = JSON().with_variant(JSONB(), "postgresql")
BigKey = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only in an INTEGER key


_OPEN = text("state <> 'done'")
_FAILED = text("reason IS NOT NULL")  # not the state: PostgreSQL updates no index when an item is captioned
_PATH_START = "substr(path, 1, 250)"  # PostgreSQL cannot index a long path
_OF_FILE = text("file_id IS NOT NULL")
_HAS_FAILED = text("failed_reason IS NOT NULL")


def is_open() -> ColumnElement[bool]:
    """Return the condition for a chunk to be open, written exactly as in the partial indexes, or they are not used."""
    return Chunk.state != literal_column("'done'")


def is_failed() -> ColumnElement[bool]:
    """Return the condition for an item to have failed, with that of its partial index."""
    return and_(Item.state == literal_column("'failed'"), Item.reason.is_not(None))


def has_failed() -> ColumnElement[bool]:
    """Return the condition for a file to have failed as it is now."""
    return File.failed_reason.is_not(None)


def path_start() -> ColumnElement[str]:
    """Return the part of a file's path by which files are indexed, written exactly as in the index."""
    return literal_column(_PATH_START.replace("path", "files.path"), Text())


def one_of(values: type[StrEnum]) -> str:
    """Return the values of a column as words."""
    return "one of " + ", ".join(values)


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
    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="number of the root")
    name: Mapped[str] = mapped_column(
        Text, unique=True, comment="that of the folder, or with a number behind it; workers map it to their mounts"
    )
    path: Mapped[str] = mapped_column(Text, comment="of the folder, absolute; bytes that are not UTF-8 are %XX")
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary, comment="the same path, exact")
    path_hash: Mapped[bytes] = mapped_column(
        LargeBinary, unique=True, comment="16 bytes of a digest of the path, for the index"
    )


class Image(Base):
    """The content of an image, however many files hold it."""

    __tablename__ = "images"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, comment="number of the image")
    sha256: Mapped[str] = mapped_column(Text, unique=True, comment="digest of the content, in hexadecimal")
    width: Mapped[int] = mapped_column(Integer, comment="pixels, upright")
    height: Mapped[int] = mapped_column(Integer, comment="pixels, upright")
    format: Mapped[str] = mapped_column(Text, comment="JPEG, PNG, WEBP, GIF, BMP or MPO")
    bytes: Mapped[int] = mapped_column(BigInteger, comment="size of the content")
    pixels: Mapped[str | None] = mapped_column(
        Text, comment="digest of what the encoder reads: equal after an edit of EXIF"
    )


class Encoder(Base):
    """An encoder that computed features. Only features of one encoder can be compared."""

    __tablename__ = "encoders"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="number of the encoder")
    key: Mapped[str] = mapped_column(
        Text, unique=True, comment="version of the features, and digests of the weights and of the preprocessing"
    )


class Features(Base):
    """What an encoder saw in an image, to compare images: near-duplicates have almost the same."""

    __tablename__ = "features"
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), primary_key=True, comment="the image")
    encoder_id: Mapped[int] = mapped_column(ForeignKey("encoders.id"), primary_key=True, comment="the encoder")
    vector: Mapped[bytes] = mapped_column(
        LargeBinary, comment="256 numbers of a byte, see captioning.features; shared like the caption"
    )
    thumbnail: Mapped[bytes] = mapped_column(LargeBinary, comment="22 x 22 pixels of 4 bits")
    sketch: Mapped[int] = mapped_column(Integer, index=True, comment="24 bits of the thumbnail, to find copies")


class Mount(Base):
    """A mounted file system as a walk saw it. It tells deleted files from those of a disk that is not mounted."""

    __tablename__ = "mounts"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="number of the mount")
    identity: Mapped[str] = mapped_column(Text, unique=True, comment="source, type, root and mount point")


class Capability(Base):
    """What a worker could decode when a file failed: formats and limits."""

    __tablename__ = "capabilities"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="number of the capability")
    text: Mapped[str] = mapped_column(Text, unique=True, comment="JSON of captioning.values.DecodeCapability")


class File(Base):
    """A path below a root, and what was last seen there."""

    __tablename__ = "files"
    __table_args__ = (
        UniqueConstraint("root_id", "path_hash"),
        Index("ix_files_path", "root_id", text(_PATH_START)),
        Index("ix_files_size", "size"),
        Index("ix_files_failed", "id", sqlite_where=_HAS_FAILED, postgresql_where=_HAS_FAILED),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, comment="number of the file")
    root_id: Mapped[int] = mapped_column(ForeignKey("roots.id"), comment="the root that it is below")
    path: Mapped[str] = mapped_column(Text, comment="below the root; bytes that are not UTF-8 are %XX")
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary, comment="the same path, exact")
    path_hash: Mapped[bytes] = mapped_column(
        LargeBinary, comment="16 bytes: PostgreSQL cannot index a long path itself"
    )
    size: Mapped[int] = mapped_column(BigInteger, comment="bytes")
    mtime_ns: Mapped[int] = mapped_column(BigInteger, comment="time of its last modification, nanoseconds since 1970")
    image_id: Mapped[int | None] = mapped_column(
        ForeignKey("images.id"), index=True, comment="content at that size and time, or that of its partner"
    )
    missing_since: Mapped[float | None] = mapped_column(
        Double, comment="when a walk did not find it any more; null: it is there"
    )
    ctime_ns: Mapped[int | None] = mapped_column(
        BigInteger, comment="tells a change after which size and mtime are as before"
    )
    mount_id: Mapped[int | None] = mapped_column(ForeignKey("mounts.id"), comment="on which it was last seen")
    failed_reason: Mapped[str | None] = mapped_column(Text, comment="why the last attempt failed, as the file is now")
    failed_detail: Mapped[str | None] = mapped_column(Text, comment="what the decoder reported")
    failed_capability_id: Mapped[int | None] = mapped_column(ForeignKey("capabilities.id"), comment="not tried again")
    partner: Mapped[bytes | None] = mapped_column(
        LargeBinary,
        comment="name of the image beside it that lends it content and caption",
    )


class Model(Base):
    """A model bundle that made captions, or will."""

    __tablename__ = "models"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="number of the model")
    digest: Mapped[str] = mapped_column(
        Text, unique=True, comment="of the bundle: another file with this name is another model"
    )
    name: Mapped[str] = mapped_column(Text, index=True, comment="as `producer models` shows it")
    is_default: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="its captions go before other models'"
    )
    card: Mapped[dict[str, Any]] = mapped_column(Json, comment="the model card: training data, figures and calibration")
    created_at: Mapped[float] = mapped_column(Double, comment="when it was first used")


class Job(Base):
    """One `submit`: what to caption, with which model, and its state."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_key_state", "key", "state"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="number of the job")
    key: Mapped[str] = mapped_column(Text, comment="digest of the request: the same submit continues the job")
    name: Mapped[str] = mapped_column(Text, comment="given with --name, or that of the folder")
    options: Mapped[dict[str, Any]] = mapped_column(Json, comment="DecodeOptions")
    options_digest: Mapped[str] = mapped_column(
        Text, comment="digest of the options: captions of other options do not count"
    )
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), comment="the model of its captions")
    force: Mapped[bool] = mapped_column(server_default=text("false"), comment="caption images that have a caption too")
    priority: Mapped[int] = mapped_column(Integer, server_default=text("0"), comment="higher first")
    state: Mapped[str] = mapped_column(Text, comment=one_of(JobState))
    registered: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="the walk of its folders is complete"
    )
    known: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), comment="files that needed no work")
    skipped: Mapped[dict[str, Any]] = mapped_column(Json, comment="counts of skipped files, by category")
    last_claimed_at: Mapped[float] = mapped_column(Double, server_default=text("0"), comment="later after a long turn")
    created_at: Mapped[float] = mapped_column(Double, comment="when it was submitted")
    finished_at: Mapped[float | None] = mapped_column(
        Double, comment="when its last chunk was done; null: it is not finished"
    )
    failed_before: Mapped[int] = mapped_column(
        BigInteger, server_default=text("0"), comment="files not tried: they would fail"
    )
    skip_near_duplicates: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="near-duplicates of a captioned image share its caption"
    )


class ForgottenJob(Base):
    """The number of a job that was removed. It is not given to another job."""

    __tablename__ = "forgotten_jobs"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False, comment="number that the job had")


class Chunk(Base):
    """The unit that a worker claims: some items of a job, all below one root."""

    __tablename__ = "chunks"
    __table_args__ = (
        UniqueConstraint("job_id", "seq"),
        Index("ix_chunks_open", "job_id", "seq", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_chunks_open_root", "root_id", "job_id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, comment="number of the chunk")
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), comment="the job")
    root_id: Mapped[int] = mapped_column(ForeignKey("roots.id"), comment="the root of all its files")
    seq: Mapped[int] = mapped_column(Integer, comment="order within the job")
    state: Mapped[str] = mapped_column(Text, comment=one_of(ChunkState))
    fence: Mapped[int] = mapped_column(Integer, server_default=text("0"), comment="fencing token, raised by claims")
    attempts: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="without progress, see the glossary"
    )
    deferrals: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="releases in a row, files unreachable"
    )
    worker: Mapped[str | None] = mapped_column(Text, comment="name of the worker that claimed it last")
    leased_at: Mapped[float | None] = mapped_column(Double, comment="when the lease, or the backoff, was last set")
    lease_until: Mapped[float | None] = mapped_column(Double, comment="of a pending chunk: the end of its backoff")
    last_error: Mapped[str | None] = mapped_column(Text, comment="why it was released, until there is progress")
    size: Mapped[int] = mapped_column(Integer, comment="items")
    captioned: Mapped[int] = mapped_column(Integer, server_default=text("0"), comment="items that a model captioned")
    reused: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="items of an image that had its caption already"
    )
    failed: Mapped[int] = mapped_column(Integer, server_default=text("0"), comment="items that failed")
    model_runs: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="images that a model captioned, each content once"
    )


class Item(Base):
    """One file's place in a job."""

    __tablename__ = "items"
    __table_args__ = (
        UniqueConstraint("job_id", "file_id"),
        Index("ix_items_failed", "job_id", "reason", sqlite_where=_FAILED, postgresql_where=_FAILED),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, comment="number of the item")
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), comment="the job")
    file_id: Mapped[int] = mapped_column(ForeignKey("files.id"), index=True, comment="the file")
    chunk_id: Mapped[int] = mapped_column(ForeignKey("chunks.id"), index=True, comment="the chunk that has it")
    state: Mapped[str] = mapped_column(Text, comment=one_of(ItemState))
    reason: Mapped[str | None] = mapped_column(Text, comment=f"why it failed, {one_of(Reason)}")
    detail: Mapped[str | None] = mapped_column(Text, comment="what the decoder reported")
    attempts: Mapped[int] = mapped_column(
        Integer, server_default=text("0"), comment="decode processes that died with it"
    )
    finished_at: Mapped[float | None] = mapped_column(Double, comment="when it was done; null: it is not")


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
        Index("ix_captions_confidence_id", "confidence", "id"),
        Index("ix_captions_created_at_id", "created_at", "id"),
        Index("ix_captions_file_id", "file_id", sqlite_where=_OF_FILE, postgresql_where=_OF_FILE),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, comment="number of the caption")
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"), comment="the content that it was written for")
    source: Mapped[str] = mapped_column(Text, comment="machine, human or imported")
    model_id: Mapped[int | None] = mapped_column(
        ForeignKey("models.id"), comment="the model that made it; null: a person wrote it, or it was imported"
    )
    options_digest: Mapped[str | None] = mapped_column(Text, comment="of the options of the search that found it")
    text: Mapped[str] = mapped_column(Text, comment="the caption; empty: the image is decorative")
    confidence: Mapped[float | None] = mapped_column(Double, comment="0 to 1")
    log_probability: Mapped[float | None] = mapped_column(Double, comment="nats")
    weakest_word: Mapped[str | None] = mapped_column(Text, comment="the word with the lowest confidence")
    word_log_probabilities: Mapped[list[float] | None] = mapped_column(Json, comment="nats, the end token last")
    alternatives: Mapped[list[dict[str, Any]] | None] = mapped_column(
        Json, comment="other hypotheses of the search: text and log-probability"
    )
    runtime: Mapped[str | None] = mapped_column(Text, comment="openvino, torch or another program that ran the model")
    precision: Mapped[str | None] = mapped_column(
        Text, comment="of the encoder and of the search, as in bf16+fp32; in older rows of the encoder"
    )
    software: Mapped[str | None] = mapped_column(Text, comment="versions of the programs that made it")
    created_at: Mapped[float] = mapped_column(Double, comment="when it was written")
    unlike: Mapped[bool | None] = mapped_column(comment="the image is unlike those that the model learned from")
    file_id: Mapped[int | None] = mapped_column(
        ForeignKey("files.id"), comment="that a person wrote it for, and it follows"
    )
    original: Mapped[str | None] = mapped_column(Text, comment="what the model wrote, where `text` was edited")
    withdrawn_at: Mapped[float | None] = mapped_column(
        Double, comment="when it was taken back; it is not shown any more"
    )
    shared_from: Mapped[str | None] = mapped_column(
        Text, comment="SHA-256 of the near-duplicate that the model captioned instead; null: of this image"
    )


class Attention(Base):
    """Where a model looked for each word of a caption, for jobs that were submitted with --attention."""

    __tablename__ = "attention"
    caption_id: Mapped[int] = mapped_column(
        BigKey, ForeignKey("captions.id"), primary_key=True, autoincrement=False, comment="the caption"
    )
    weights: Mapped[bytes] = mapped_column(
        LargeBinary,
        comment="for each word as the model wrote it, one byte a cell of the square grid, row by row; 255: the most",
    )


class Change(Base):
    """What one command of a person did to captions. It can be undone as a whole."""

    __tablename__ = "changes"
    id: Mapped[int] = mapped_column(
        Integer, primary_key=True, comment="number of the change: what `producer undo` takes"
    )
    verb: Mapped[str] = mapped_column(Text, comment="correct, accept, reject, replace, import, export or undo")
    detail: Mapped[dict[str, Any]] = mapped_column(Json, comment="the command's arguments")
    person: Mapped[str] = mapped_column(Text, comment="user@host")
    created_at: Mapped[float] = mapped_column(Double, comment="when it was made")
    undone_by: Mapped[int | None] = mapped_column(ForeignKey("changes.id"), comment="the change that took it back")


class Edit(Base):
    """One caption that a change wrote, rewrote or took back."""

    __tablename__ = "edits"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, comment="number of the edit")
    change_id: Mapped[int] = mapped_column(
        ForeignKey("changes.id"), index=True, comment="the change that it is part of"
    )
    caption_id: Mapped[int] = mapped_column(
        ForeignKey("captions.id"), index=True, comment="the caption that was written or changed"
    )
    file_id: Mapped[int | None] = mapped_column(
        ForeignKey("files.id"), index=True, comment="of the path that was named"
    )
    before: Mapped[str | None] = mapped_column(Text, comment="the text before; null: there was none")
    after: Mapped[str | None] = mapped_column(Text, comment="the text after; null: the caption was taken back")


class Sidecar(Base):
    """A file beside an image, or in a mirrored tree, of which an export wrote at least a part."""

    __tablename__ = "sidecars"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, comment="number of the sidecar")
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary, comment="its path, absolute and exact")
    path_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True, comment="as in `files`")
    change_id: Mapped[int] = mapped_column(
        ForeignKey("changes.id"), index=True, comment="the export that last wrote it"
    )
    how: Mapped[str] = mapped_column(Text, comment="new, overwrite, append, prepend or merge")
    before: Mapped[bytes | None] = mapped_column(LargeBinary, comment="what a person had there; null: no file")
    replaced: Mapped[str | None] = mapped_column(
        Text, comment="SHA-256 of the file before the last write; null: no file"
    )
    written: Mapped[str] = mapped_column(
        Text, comment="SHA-256 of the file that is written, or was to be when a process died"
    )
    image_bytes: Mapped[bytes | None] = mapped_column(LargeBinary, comment="path of its image, absolute and exact")
    mtime_ns: Mapped[int | None] = mapped_column(BigInteger, comment="time of `before`, nanoseconds since 1970")


class Worker(Base):
    """A worker that is running, or was."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(Text, primary_key=True, comment="host and process")
    host: Mapped[str] = mapped_column(Text, comment="name of the machine")
    heartbeat_at: Mapped[float] = mapped_column(Double, comment="when it last reported")
    models: Mapped[list[str]] = mapped_column(Json, comment="digests")
    roots: Mapped[list[str]] = mapped_column(Json, comment="names of the roots with work that it sees")
    runtime: Mapped[str] = mapped_column(Text, comment="what runs its models, and on which device")
    dropped_messages: Mapped[int] = mapped_column(Integer, server_default=text("0"), comment="not wake-up messages")
    capability: Mapped[str | None] = mapped_column(Text, comment="JSON of captioning.values.DecodeCapability")


class Sweep(Base):
    """One row: the earliest time at which a worker may sweep (look for work that no message announced)."""

    __tablename__ = "sweeps"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="always 1")
    next_at: Mapped[float] = mapped_column(Double, comment="the earliest time of the next sweep")


for _mapper in Base.registry.mappers:
    _table = Base.metadata.tables[_mapper.class_.__tablename__]
    _table.comment = " ".join(cleandoc(_mapper.class_.__doc__ or "").split())

NOT_CHECKED_BY_POSTGRESQL = frozenset({"fk_files_root_id", "fk_files_mount_id", "fk_items_job_id", "fk_items_chunk_id"})
"""Foreign keys that are no constraints there, where each costs 4 us a row, a tenth of what it takes to register a file.

Who registers a file has read or locked the other row. A trigger refuses to remove a row to which others refer, as the
key did: that costs nothing while nothing is removed."""

EXPORT_VIEW = Table(
    "caption_export",
    MetaData(),
    Column("path", Text, comment="of the file, absolute; bytes that are not UTF-8 are %XX"),
    Column("root", Text, comment="name of the root that it is below"),
    Column("sha256", Text, comment="digest of the content; null: nobody has read it, or the file shares a caption"),
    Column("caption", Text, comment="the caption that the file shows; empty: the image is decorative"),
    Column("confidence", Double, comment="0 to 1, of captions by models"),
    Column("model", Text, comment="name of the model that made the caption"),
    Column("source", Text, comment="machine, human or imported"),
    Column("width", Integer, comment="pixels, upright"),
    Column("height", Integer, comment="pixels, upright"),
    Column("status", Text, comment="captioned, rejected, failed or pending"),
    Column("error", Text, comment="why there is no caption, if it failed"),
    Column("captioned_at", Text, comment="when the caption was written: ISO 8601, UTC"),
    Column("unlike", Boolean, comment="the image is unlike those that the model learned from"),
    Column("edited", Boolean, comment="a person changed words of the model's caption"),
    Column("image_changed", Boolean, comment="a person wrote the caption for other content than the file has now"),
    Column("job", Integer, comment="number of the last job that had the file"),
    Column("written_at", DateTime(timezone=True), comment="captioned_at as a time; in SQLite the same text"),
    comment="One row for each file that is not missing, with the caption that it shows. Its columns stay.",
)
"""The view for people. The migrations create it."""
