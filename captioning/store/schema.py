"""The tables. How they came to be, the export view and the search index are in `migrations/`.

Times are seconds since 1970 in UTC by the database's clock, so that leases of machines with different clocks
agree. Paths are kept as bytes, the truth, and as text for people.
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
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BigKey = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only in an INTEGER key


_OPEN = text("state <> 'done'")
_FAILED = text("state = 'failed'")


def is_open() -> ColumnElement[bool]:
    """Tell, of a chunk, whether it isn't done: spelled as the indexes of open chunks are, or they would not be used."""
    return Chunk.state != literal_column("'done'")


def is_failed() -> ColumnElement[bool]:
    """Tell, of an item, whether it failed: spelled as the index of the few that did is, for the same reason."""
    return Item.state == literal_column("'failed'")


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
    """A folder as it was submitted; workers elsewhere map its name to their own mount."""

    __tablename__ = "roots"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    path: Mapped[str] = mapped_column(Text)
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    path_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)


class Image(Base):
    """A picture's content, wherever it lies."""

    __tablename__ = "images"
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    sha256: Mapped[str] = mapped_column(Text, unique=True)
    width: Mapped[int] = mapped_column(Integer)  # pixels, upright
    height: Mapped[int] = mapped_column(Integer)
    format: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)


class File(Base):
    """A path below a root, and what was last seen there."""

    __tablename__ = "files"
    __table_args__ = (UniqueConstraint("root_id", "path_hash"),)
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    root_id: Mapped[int] = mapped_column(ForeignKey("roots.id"))
    path: Mapped[str] = mapped_column(Text)  # below the root; bytes that aren't UTF-8 are %XX
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    path_hash: Mapped[bytes] = mapped_column(LargeBinary)  # 16 bytes: PostgreSQL can't index a long path itself
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    image_id: Mapped[int | None] = mapped_column(ForeignKey("images.id"), index=True)  # of the size and mtime above
    missing_since: Mapped[float | None] = mapped_column(Double)


class Model(Base):
    """A bundle that captioned, or will."""

    __tablename__ = "models"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str] = mapped_column(Text, unique=True)
    name: Mapped[str] = mapped_column(Text, index=True)
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))  # whose captions stand when nobody asks
    card: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(Double)


class Job(Base):
    """One `submit`: what was asked for, with which model, and where it stands."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_key_state", "key", "state"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    key: Mapped[str] = mapped_column(Text)  # digest of roots and options: the same again continues
    name: Mapped[str] = mapped_column(Text)
    options: Mapped[dict[str, Any]] = mapped_column(JSON)  # DecodeOptions
    options_digest: Mapped[str] = mapped_column(Text)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    force: Mapped[bool] = mapped_column(server_default=text("false"))  # caption even what has a caption
    priority: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # higher first
    state: Mapped[str] = mapped_column(Text)
    registered: Mapped[bool] = mapped_column(server_default=text("false"))  # the walk has ended
    known: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    skipped: Mapped[dict[str, Any]] = mapped_column(JSON)  # files passed over, by kind
    served_at: Mapped[float] = mapped_column(Double, server_default=text("0"))  # when a chunk was last claimed
    created_at: Mapped[float] = mapped_column(Double)
    finished_at: Mapped[float | None] = mapped_column(Double)


class Chunk(Base):
    """What a worker claims at once: some items of a job, all below one root."""

    __tablename__ = "chunks"
    __table_args__ = (
        UniqueConstraint("job_id", "seq"),
        Index("ix_chunks_open", "job_id", "seq", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_chunks_open_root", "root_id", "job_id", sqlite_where=_OPEN, postgresql_where=_OPEN),
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    root_id: Mapped[int] = mapped_column(ForeignKey("roots.id"))
    seq: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(Text)
    fence: Mapped[int] = mapped_column(
        Integer, server_default=text("0")
    )  # counts claims; a late commit is refused by it
    crashes: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # workers that died of it, since progress
    worker: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[float | None] = mapped_column(Double)  # of a chunk that is pending: until when it rests
    leased_at: Mapped[float | None] = mapped_column(Double)  # when that was last said
    waits: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # times in a row that files were out of sight
    trouble: Mapped[str | None] = mapped_column(Text)  # why it was given back, until there is progress
    size: Mapped[int] = mapped_column(Integer)
    captioned: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    reused: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    model_runs: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class Item(Base):
    """One file's place in a job's work."""

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
    crashes: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # decoders that died with it in hand
    finished_at: Mapped[float | None] = mapped_column(Double)


class Caption(Base):
    """A sentence about a picture, and who said it how."""

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
    )
    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    source: Mapped[str] = mapped_column(Text)
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"))
    options_digest: Mapped[str | None] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    confidence: Mapped[float | None] = mapped_column(Double)  # 0 to 1
    log_probability: Mapped[float | None] = mapped_column(Double)  # nats
    weakest_word: Mapped[str | None] = mapped_column(Text)
    word_log_probabilities: Mapped[list[float] | None] = mapped_column(JSON)
    alternatives: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    runtime: Mapped[str | None] = mapped_column(Text)
    precision: Mapped[str | None] = mapped_column(Text)
    software: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Double)


class Worker(Base):
    """A worker that is, or was, at work."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    host: Mapped[str] = mapped_column(Text)
    seen_at: Mapped[float] = mapped_column(Double)
    models: Mapped[list[str]] = mapped_column(JSON)  # digests
    roots: Mapped[list[str]] = mapped_column(JSON)  # names of those with work that it sees
    runtime: Mapped[str] = mapped_column(Text)
    dropped: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # messages in its queue that were no bells


class Sweep(Base):
    """One row: when a worker may next look for forgotten work. Whoever moves it on, looks."""

    __tablename__ = "sweeps"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    next_at: Mapped[float] = mapped_column(Double)
