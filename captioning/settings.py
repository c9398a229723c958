"""What the environment may say: every setting has the prefix CAPTIONING_ and a default.

Read once at each entry point and passed on as a value. Nothing else reads the environment.
Passwords are never repeated: not by `repr`, not in what is said of a setting that is wrong.
"""

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, quote, urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from captioning.errors import UsageError

PREFIX = "CAPTIONING_"


def _user_data_dir() -> Path:
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "captionmill"
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "captionmill"
    except RuntimeError:
        raise UsageError(f"this user has no home folder: set {PREFIX}DATA_DIR to where the data belongs.") from None


class Settings(BaseSettings):
    """The settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    data_dir: Path = Field(default_factory=_user_data_dir)  # the SQLite database, locks, derived files
    broker_url: str = Field(default="", repr=False)  # redis://...; empty runs a private broker and worker a submit
    broker_password_file: Path | None = None  # holds the password for broker_url, which then has none
    broker_ca: Path | None = None  # certificates to trust for rediss://, besides the system's
    broker_certificate: Path | None = None  # of ours, where the broker asks for one; with its key in
    broker_key: Path | None = None
    database_url: str = Field(default="", repr=False)  # postgresql+psycopg:// or sqlite:///; empty: SQLite in data_dir
    database_password_file: Path | None = None  # holds the password for database_url, which then has none
    model: str = "flickr8k-lstm"  # that captions when nobody names another
    bundles: Annotated[tuple[Path, ...], NoDecode] = ()  # more folders of model bundles, separated by ':'
    roots: Annotated[dict[str, Path], NoDecode] = {}  # name=folder,...: where this worker sees which root, and no other
    worker_name: str = ""  # what the rows of this worker's leases say; empty is host and process

    chunk_size: int = Field(default=128, ge=1, le=4096)  # pictures that a worker claims at once
    batch_size: int = Field(default=32, ge=1, le=1024)  # pictures that go through the model, and are committed, at once
    lease_seconds: float = Field(default=30.0, gt=0, le=86_400)  # without progress, before another worker may take over
    sweep_seconds: float = Field(default=2.0, gt=0, le=3600)  # between looks for work that nobody was told of
    bells: int = Field(default=16, ge=1, le=10_000)  # messages kept in the queue while work is pending
    outage_seconds: float = Field(default=30.0, ge=0, le=86_400)  # that a task waits for a database that is away
    gone_seconds: float = Field(default=300.0, ge=0, le=10**7)  # that a folder which has become empty is waited for

    decoders: int = Field(default=0, ge=0, le=256)  # processes that open pictures; 0 is one a core but one
    picture_seconds: float = Field(default=20.0, gt=0, le=3600)  # that opening one picture may take
    max_bytes: int = Field(default=256_000_000, gt=0, le=10**12)  # of a picture's file
    max_pixels: int = Field(default=128_000_000, gt=0, le=10**10)  # of a picture, after reduced-scale decoding
    max_side: int = Field(default=65_535, gt=0, le=10**7)  # of a picture, in pixels
    max_frames: int = Field(default=10_000, gt=0, le=10**7)  # of an animation, of which the first is captioned
    runtime: str = Field(default="auto", pattern="^(auto|torch|openvino)$")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    @field_validator("data_dir")
    @classmethod
    def _absolute_data_dir(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()  # other processes stand elsewhere
        except RuntimeError:
            raise ValueError("there is no such user here") from None

    @field_validator("broker_url", "database_url")
    @classmethod
    def _text(cls, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("not text in UTF-8; such bytes must be percent-quoted, %FF say") from None
        return value

    @field_validator("database_url")
    @classmethod
    def _absolute_sqlite(cls, value: str) -> str:
        if not value.startswith("sqlite"):
            return value
        kind, _, path = value.partition(":///")
        if path in ("", ":memory:"):
            raise ValueError("several processes share the database: name a file, sqlite:////folder/captions.sqlite")
        return f"{kind}:///{Path(path).absolute()}"

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str) -> str:
        """Refuse what would be shown as a part of the host, or in clear, when the database is spoken of."""
        if value.startswith("sqlite"):
            return value
        if value.count("@") > 1:
            raise _unquoted("DATABASE")
        if "password" in _parts(value, "DATABASE").query:
            raise ValueError("its password stands before the host: postgresql+psycopg://user:password@host/name")
        return value

    @field_validator("broker_url")
    @classmethod
    def _check_broker(cls, value: str) -> str:
        parts = _parts(value, "BROKER")
        if value and parts.scheme not in ("redis", "rediss", "redis+socket"):
            raise ValueError("write it as redis://:password@host:6379/0 (or rediss://, redis+socket://)")
        if ";" in value:  # kombu would take what follows for another URL
            raise _unquoted("BROKER")
        if parts.scheme == "redis+socket":
            if not parts.path.strip("/"):
                raise ValueError("it names no socket: redis+socket:///run/redis.sock")
            return value
        if not re.fullmatch("/?[0-9]*/?", parts.path):
            raise ValueError("the database after the host is a number: redis://host:6379/0")
        if parts.query:  # ?ssl_cert_reqs=none, say
            raise ValueError("it takes no options after a question mark")
        return value

    @field_validator("broker_password_file", "broker_ca", "broker_certificate", "broker_key", "database_password_file")
    @classmethod
    def _absolute_file(cls, value: Path | None) -> Path | None:
        return value and value.absolute()

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
    def broker(self) -> str:
        """The URL of the broker, with its password."""
        return _with_password(self.broker_url, self.broker_password_file, "BROKER")

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the database, with its password."""
        url = self.database_url or _sqlite_url(self.sqlite_file)
        return _with_password(url, self.database_password_file, "DATABASE")

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
            "broker_password_file": str(self.broker_password_file or ""),
            "broker_ca": str(self.broker_ca or ""),
            "broker_certificate": str(self.broker_certificate or ""),
            "broker_key": str(self.broker_key or ""),
            "database_url": self.database_url or self.store_url,
            "database_password_file": str(self.database_password_file or ""),  # not what is in it
            "worker_name": self.worker_name,
            "bundles": os.pathsep.join(map(str, self.bundles)),
        }
        return {PREFIX + key.upper(): value for key, value in said.items() if value}


def read_settings(**given: object) -> Settings:
    """Read the environment, `given` first. Raises UsageError that names the variable at fault."""
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as wrong:
        first = wrong.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        value = "***" if name.endswith("_URL") else first.get("input")  # URLs hold passwords
        raise UsageError(f"{name}={value!s}: {first['msg'].removeprefix('Value error, ')}.") from None
    _refuse_open_doors(settings)
    return settings


def _refuse_open_doors(settings: Settings) -> None:
    """Raise UsageError where settings contradict each other, or a file of theirs can't be used."""
    _ = settings.store_url
    broker = urlsplit(settings.broker)
    if broker.username and not broker.password:
        raise UsageError(f"{PREFIX}BROKER_URL: no password. One without a user is redis://:password@host.")
    trust = (settings.broker_ca, settings.broker_certificate, settings.broker_key)
    if any(trust) and broker.scheme != "rediss":
        names = f"{PREFIX}BROKER_CA, _CERTIFICATE and _KEY"
        raise UsageError(f"{names} are for a {PREFIX}BROKER_URL that begins with rediss://.")
    if any(trust):
        _try_certificates(*trust)


def _try_certificates(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Raise UsageError when the files don't hold what they should; Celery would only say that nobody answers."""
    import ssl

    name = f"{PREFIX}BROKER_CA={ca}"
    try:
        context = ssl.create_default_context(cafile=ca)
        name = f"{PREFIX}BROKER_CERTIFICATE={certificate}, {PREFIX}BROKER_KEY={key}"
        if certificate or key:
            context.load_cert_chain(certificate or "", key or "", password=str)  # never ask at the terminal
    except OSError as trouble:
        why = "not as PEM has it" if isinstance(trouble, ssl.SSLError) else trouble.strerror
        raise UsageError(f"{name}: {why}.") from None


def _sqlite_url(file: Path) -> str:
    """Return the URL of a file; in its name a question mark begins no options."""
    return "sqlite:///" + str(file).replace("%", "%25").replace("?", "%3F")


def _parts(url: str, of: str) -> SplitResult:
    """Split a URL. Raises ValueError that repeats nothing of it."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises too, when it isn't a number
    except ValueError:  # whose words may be a part of the password
        raise ValueError(f"what follows the host's colon is no port; {_unquoted(of)}") from None
    if parts.fragment:  # a password's second half: what stands before its # was taken for host and port
        raise _unquoted(of)
    return parts


def _unquoted(of: str) -> ValueError:
    return ValueError(
        "what is neither letter nor digit in its password must be percent-quoted, @ as %40 and / as %2F,"
        f" or the password be in a file that {PREFIX}{of}_PASSWORD_FILE names"
    )


def _with_password(url: str, file: Path | None, of: str) -> str:
    """Put the password that is in a file into a URL. Raises UsageError that names the variable and the file."""
    if file is None:
        return url
    name = f"{PREFIX}{of}_PASSWORD_FILE={file}"
    parts = urlsplit(url)
    if not url or url.startswith("sqlite"):
        raise UsageError(f"{name}: there is no {PREFIX}{of}_URL that the password would be for.")
    if parts.password is not None:
        raise UsageError(f"{name}: {PREFIX}{of}_URL has a password already; take it out of there.")
    try:
        password = file.read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except OSError as trouble:
        raise UsageError(f"{name}: {trouble.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name}: not text in UTF-8.") from None
    if not password:
        raise UsageError(f"{name}: the file is empty.")
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()
