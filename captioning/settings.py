"""What the environment may say: every setting has the prefix CAPTIONING_ and a default.

Read once at each entry point and passed on as a value. Nothing else reads the environment.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from captioning.errors import UsageError

PREFIX = "CAPTIONING_"


def _user_data_dir() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "captionmill"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "captionmill"


class Settings(BaseSettings):
    """The settings of one process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    data_dir: Path = Field(default_factory=_user_data_dir)  # the SQLite database, locks, derived files
    broker_url: str = ""  # redis://...; empty runs a private broker and worker for each submit
    database_url: str = ""  # postgresql+psycopg://... or sqlite:///...; empty is SQLite in data_dir
    model: str = "flickr8k-lstm"  # that captions when nobody names another
    bundles: Annotated[tuple[Path, ...], NoDecode] = ()  # more folders of model bundles, separated by ':'
    roots: Annotated[dict[str, Path], NoDecode] = {}  # name=folder,...: where this worker sees which root, and no other
    worker_name: str = ""  # what the rows of this worker's leases say; empty is host and process

    chunk_size: int = Field(default=128, ge=1, le=4096)  # pictures that a worker claims at once
    batch_size: int = Field(default=32, ge=1, le=1024)  # pictures that go through the model, and are committed, at once
    lease_seconds: float = Field(default=30.0, gt=0)  # without progress, before another worker may take over
    sweep_seconds: float = Field(default=2.0, gt=0)  # between looks for work that nobody was told of
    bells: int = Field(default=16, ge=1)  # messages kept in the queue while work is pending
    outage_seconds: float = Field(
        default=30.0, ge=0
    )  # that a task waits for the database before it gives its chunk back

    decoders: int = Field(default=0, ge=0)  # processes that open pictures; 0 is one a core but one, at least one
    picture_seconds: float = Field(default=20.0, gt=0)  # that opening one picture may take
    max_bytes: int = Field(default=256_000_000, gt=0)  # of a picture's file
    max_pixels: int = Field(default=128_000_000, gt=0)  # of a picture in memory, after reduced-scale decoding
    runtime: str = Field(default="auto", pattern="^(auto|torch|openvino)$")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    @field_validator("data_dir")
    @classmethod
    def _absolute_data_dir(cls, value: Path) -> Path:
        return value.expanduser().absolute()  # other processes stand elsewhere

    @field_validator("database_url")
    @classmethod
    def _absolute_sqlite(cls, value: str) -> str:
        if not value.startswith("sqlite"):
            return value
        kind, _, path = value.partition(":///")
        if path in ("", ":memory:"):
            raise ValueError("several processes share the database: name a file, sqlite:////folder/captions.sqlite")
        return f"{kind}:///{Path(path).absolute()}"

    @field_validator("broker_url")
    @classmethod
    def _check_broker(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and parts.scheme not in ("redis", "rediss", "redis+socket"):
            raise ValueError("write it as redis://:password@host:6379/0 (or rediss://, redis+socket://)")
        if parts.scheme != "redis+socket" and parts.path.strip("/") and not parts.path.strip("/").isdigit():
            raise ValueError("the database after the host is a number: redis://host:6379/0")
        _ = parts.port  # raises ValueError when it isn't a number
        return value

    @field_validator("bundles", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        return tuple(Path(p).absolute() for p in value.split(os.pathsep) if p) if isinstance(value, str) else value

    @field_validator("roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if any(not name.strip() or not path.strip() for name, _, path in pairs):
            raise ValueError("write it as name=/folder,name=/folder")
        return {name.strip(): Path(path.strip()).absolute() for name, _, path in pairs}

    @property
    def embedded(self) -> bool:
        """Whether this process brings its own broker and worker."""
        return not self.broker_url

    @property
    def sqlite_file(self) -> Path:
        """Where the database is when none is configured."""
        return self.data_dir / "captions.sqlite"

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.sqlite_file}"

    @property
    def bundle_folders(self) -> tuple[Path, ...]:
        """Where models are looked for, besides those built in."""
        return (self.data_dir / "models", *self.bundles)

    @property
    def embedded_worker_name(self) -> str:
        """The name of the worker that belongs to this data folder."""
        return "embedded-" + hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]

    def environment(self) -> dict[str, str]:
        """Return what a child process needs in its environment to read these very settings."""
        said = {
            "data_dir": str(self.data_dir),
            "broker_url": self.broker_url,
            "database_url": self.store_url,
            "worker_name": self.worker_name,
            "bundles": os.pathsep.join(map(str, self.bundles)),
        }
        return {PREFIX + key.upper(): value for key, value in said.items() if value}


def read_settings(**given: object) -> Settings:
    """Read the environment, `given` first. Raises UsageError that names the variable at fault."""
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as wrong:
        first = wrong.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        value = "***" if "://" in str(first.get("input")) else first.get("input")  # URLs hold passwords
        raise UsageError(f"{name}={value!s}: {first['msg'].removeprefix('Value error, ')}.") from None
