"""Settings: every one is an environment variable with the prefix CAPTIONING_ and has a default.

Each program reads them once, at its start, and passes them on as a value. Passwords are never shown: not by `repr`,
and not in the message about a setting that is wrong.
"""

import difflib
import hashlib
import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from captioning.allowed_values import fault
from captioning.environment import PREFIX, available_cores, take_unknown_settings
from captioning.errors import UsageError
from captioning.paths import is_url
from captioning.service_urls import check_certificates, split_url, sqlite_url, unquoted, with_password

MAX_BATCH_SIZE = 1024
WORKERS_OF_GPU = 3  # of embedded mode that share a GPU
_NVIDIA = Path("/dev/nvidiactl")  # exists where NVIDIA's driver runs
_CORES_FOR_SHARING = 12
LEASE_PER_DECODE_TIMEOUT = 1.5  # a lease is at least this many times as long as decoding one image may take


def _user_data_dir() -> Path:
    folder = platformdirs.user_data_path("captionmill", appauthor=False)
    if not folder.is_absolute():
        raise UsageError(f"this user has no home folder: set {PREFIX}DATA_DIR to a folder for the data.")
    return folder


def is_device(name: str) -> bool:
    """Return whether a name is that of a device: auto, cpu, cuda, cuda:N or mps."""
    return re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,4})?", name) is not None


class Settings(BaseSettings):
    """The settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    # -- where things are --
    data_dir: Path = Field(
        default_factory=_user_data_dir, description="Folder for the SQLite database, models, logs and derived files."
    )
    broker_url: str = Field(
        "", repr=False, description="`redis://...`; empty: each `submit` starts a private broker and worker."
    )
    broker_password_file: Path | None = Field(
        None, description="File with the password for `BROKER_URL`, which then contains none."
    )
    broker_ca: Path | None = Field(
        None, description="Certificates to trust for `rediss://`, besides the system's (PEM)."
    )
    broker_certificate: Path | None = Field(None, description="Client certificate for `rediss://` (PEM).")
    broker_key: Path | None = Field(None, description="Key of the client certificate (PEM).")
    database_url: str = Field(
        "",
        repr=False,
        description="`postgresql+psycopg://...` or `sqlite:///...`; empty: `captions.sqlite` in the data folder.",
    )
    database_password_file: Path | None = Field(
        None, description="File with the password for `DATABASE_URL`, which then contains none."
    )
    model: str = Field("lstm", description="Model that captions when no other is asked for.")
    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="More folders with model bundles, separated by `:`."
    )
    roots: Annotated[dict[str, str], NoDecode] = Field(
        {},
        description="`name=folder,...`: where this worker sees which root. It then serves these roots and no others. A"
        " bucket or server is named with its URL: `photos=s3://photos`.",
    )
    worker_name: str = Field("", description="Name of this worker in the database; empty: host and process id.")

    # -- how the work is divided --
    chunk_size: int = Field(128, ge=1, le=4096, description="Images that a worker claims at once.")
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] = Field(
        "auto",
        description="Images that go through the model at once. `auto`: as many as the device is fastest with, which the"
        " worker finds out.",
    )
    lease_seconds: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="Seconds without progress after which another worker may take over a chunk. The effective lease is"
        f" at least {LEASE_PER_DECODE_TIMEOUT:g} x `DECODE_TIMEOUT_SECONDS`; `worker doctor` shows it.",
    )
    sweep_seconds: float = Field(
        2.0, gt=0, le=3600, description="Seconds between two looks for work that no message announced."
    )
    queue_window: int = Field(
        16, ge=1, le=10_000, description="Wake-up messages kept in the queue while work is pending."
    )
    database_retry_seconds: float = Field(
        30.0, ge=0, le=86_400, description="Seconds to wait for a database that stops answering; 0: give up at once."
    )
    missing_grace_seconds: float = Field(
        300.0,
        ge=0,
        le=10**7,
        description="Seconds to wait for images in a folder that has become empty or cannot be entered, or on a disk"
        " that does not answer.",
    )

    embedded_workers: Literal["auto"] | Annotated[int, Field(ge=1, le=16)] = Field(
        "auto",
        description="Workers that embedded mode starts. `auto`: one, and three on a machine with an NVIDIA GPU and 12"
        " cores or more: they share the GPU, which the Python code of one could not keep busy.",
    )

    # -- limits on one image, and on an archive --
    decode_processes: int = Field(
        0,
        ge=0,
        le=256,
        description="Processes that decode images, per worker and image size; 0: one per core, less one, shared by all"
        " workers of embedded mode.",
    )
    decode_timeout_seconds: float = Field(20.0, gt=0, le=3600, description="Seconds that decoding one image may take.")
    max_bytes: int = Field(256_000_000, gt=0, le=10**12, description="Largest file, in bytes.")
    max_pixels: int = Field(
        128_000_000, gt=0, le=10**10, description="Largest image, in pixels, after reduced-scale decoding."
    )
    max_side: int = Field(65_535, gt=0, le=10**7, description="Largest width or height, in pixels.")
    max_frames: int = Field(10_000, gt=0, le=10**7, description="Most frames of an animation; the first is captioned.")
    allow_unconfined_formats: bool = Field(
        False,
        description="Decode HEIC, TIFF, RAW and other formats with vulnerable decoders also where decode processes are"
        " not confined, as on macOS; `producer doctor` shows it.",
    )
    max_archive_members: int = Field(1_000_000, gt=0, le=10**8, description="Most members of a zip or tar file.")
    max_archive_bytes: int = Field(
        10**12, gt=0, le=10**15, description="Most bytes to which a zip or tar file unpacks (none is unpacked to disk)."
    )
    max_archive_ratio: int = Field(
        100,
        gt=0,
        le=10**6,
        description="Most bytes to which one byte of a zip or tar file unpacks, above 100 MB unpacked: against zip"
        " bombs.",
    )

    # -- buckets and the web --
    s3_endpoint: str = Field("", description="`https://host` of an S3-compatible server; empty: Amazon's.")
    s3_region: str = Field("", description="Region of the S3 server; empty: found out, or `us-east-1`.")
    s3_access_key: str = Field("", description="Access key for `s3://`; empty: only public buckets can be read.")
    s3_secret_key_file: Path | None = Field(None, description="File with the secret of `S3_ACCESS_KEY`.")
    s3_session_token_file: Path | None = Field(None, description="File with the token of a temporary access key.")
    gs_endpoint: str = Field("", description="`https://host` of a server like Google's; empty: Google's.")
    gs_key_file: Path | None = Field(
        None, description="Key of a service account for `gs://` (JSON); empty: only public buckets can be read."
    )
    remote_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (),
        description="Private networks to which URLs may lead, `10.1.0.0/16,...`; others are refused. The endpoints"
        " above need not be in them.",
    )
    remote_ca: Path | None = Field(
        None, description="Certificates to trust for URLs (PEM), besides the system's; for `s3://` only these."
    )
    remote_connections: int = Field(16, ge=1, le=256, description="Files that a worker fetches at the same time.")
    remote_timeout_seconds: float = Field(
        15.0, gt=0, le=600, description="Seconds that a server of files may send nothing. No attempt begins later."
    )

    # -- how this process runs --
    runtime: Literal["auto", "torch", "openvino"] = Field("auto", description="Library that computes the encoder.")
    precision: Literal["auto", "int8", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="Arithmetic of the encoder. `auto`: on a CPU `int8` where the model has ranges for it, else the"
        " faster one of `bf16` and `fp32`; on a CUDA GPU `bf16`, or `fp16` on older ones; on an Apple GPU `fp32`.",
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`, an Apple GPU.")
    compile: Literal["auto", "off"] = Field(
        "auto",
        description="Whether the encoder is compiled and the search runs as CUDA graphs. `auto`: on a CUDA GPU. It"
        " happens while the worker captions, and what is compiled is kept in `DATA_DIR`.",
    )
    log: Literal["console", "json"] = Field(
        "console", description="Format of the worker's log on standard error: for people, or one JSON object per line."
    )
    debug: bool = Field(False, description="Show the traceback of an internal error.")
    worker_state_dir: Path | None = Field(
        None, description="Internal: folder that a worker's parent process shares with its pool process."
    )

    @field_validator("data_dir")
    @classmethod
    def _absolute_data_dir(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()  # child processes have other working directories
        except RuntimeError:
            raise ValueError("there is no such user on this machine") from None

    @field_validator("broker_url", "database_url")
    @classmethod
    def _text(cls, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("not UTF-8 text; quote such bytes with percent signs, for example %FF") from None
        return value

    @field_validator("database_url")
    @classmethod
    def _usual_database_url(cls, value: str) -> str:
        """Accept the forms that hosting services give out; explain other things than a URL."""
        scheme, colon, rest = value.partition("://")
        if scheme.lower() in ("postgres", "postgresql", "postgres+psycopg"):
            return f"postgresql+psycopg://{rest}"
        if value and not colon:
            raise ValueError("write it as postgresql+psycopg://user@host/name or sqlite:////folder/captions.sqlite")
        return value

    @field_validator("database_url")
    @classmethod
    def _absolute_sqlite(cls, value: str) -> str:
        if not value.startswith("sqlite"):
            return value
        scheme, slashes, path = value.partition(":///")
        if not slashes:
            raise ValueError("name a file after three slashes: sqlite:////folder/captions.sqlite")
        if path in ("", ":memory:"):
            raise ValueError("several processes share the database: name a file, sqlite:////folder/captions.sqlite")
        return f"{scheme}:///{Path(path).absolute()}"

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str) -> str:
        """Refuse a URL of which messages would show a part of the password."""
        if value.startswith("sqlite"):
            return value
        if value.count("@") > 1:
            raise unquoted("DATABASE")
        if "password" in split_url(value, "DATABASE").query:
            raise ValueError("write the password before the host: postgresql+psycopg://user:password@host/name")
        return value

    @field_validator("broker_url")
    @classmethod
    def _check_broker(cls, value: str) -> str:
        parts = split_url(value, "BROKER")
        if value and parts.scheme not in ("redis", "rediss", "redis+socket"):
            raise ValueError("write it as redis://:password@host:6379/0 (or rediss://, redis+socket://)")
        if ";" in value:  # kombu reads what follows as another URL
            raise unquoted("BROKER")
        if parts.scheme == "redis+socket":
            if not parts.path.strip("/"):
                raise ValueError("it names no socket: redis+socket:///run/redis.sock")
            return value
        if not re.fullmatch("/?[0-9]*/?", parts.path):
            raise ValueError("the database after the host is a number: redis://host:6379/0")
        if parts.query:  # for example ?ssl_cert_reqs=none
            raise ValueError("options after a question mark are not supported")
        return value

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not is_device(value):
            raise ValueError("write auto, cpu, cuda, cuda:N or mps")
        return value

    @field_validator("s3_endpoint", "gs_endpoint")
    @classmethod
    def _usual_endpoint(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/?#@\s]+/?", value):
            raise ValueError("write it as https://host or https://host:port, without a user or a path")
        return value.rstrip("/")

    @field_validator("remote_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return tuple(ip_network(word.strip()) for word in value.split(",") if word.strip())
        except ValueError:
            raise ValueError("write it as 10.1.0.0/16,fd00::/8, with zeros after the network's part") from None

    @field_validator(
        "broker_password_file", "broker_ca", "broker_certificate", "broker_key", "database_password_file",
        "s3_secret_key_file", "s3_session_token_file", "gs_key_file", "remote_ca",
    )  # fmt: skip
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
        if isinstance(value, dict):
            return {name: os.fspath(path) for name, path in value.items()}
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if any(not name.strip() or not path.strip() for name, _, path in pairs):
            raise ValueError("write it as name=/folder,name=/folder")
        return {name.strip(): _absolute_root(path.strip()) for name, _, path in pairs}

    @property
    def embedded(self) -> bool:
        """Whether this process starts its own broker and worker."""
        return not self.broker_url

    @property
    def sqlite_file(self) -> Path:
        """The database file when no database is configured."""
        return self.data_dir / "captions.sqlite"

    @property
    def model_cache(self) -> Path:
        """The folder of the models in the form in which a worker's runtime computes them."""
        return self.data_dir / "runtime"

    @property
    def broker(self) -> str:
        """The URL of the broker, with its password."""
        return with_password(self.broker_url, self.broker_password_file, "BROKER")

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the database, with its password."""
        url = self.database_url or sqlite_url(self.sqlite_file)
        return with_password(url, self.database_password_file, "DATABASE")

    @property
    def bundle_folders(self) -> tuple[Path, ...]:
        """Where models are searched for, besides the built-in ones."""
        return (self.data_dir / "models", *self.bundles)

    @property
    def embedded_worker_names(self) -> list[str]:
        """The names of the embedded workers of this data folder."""
        first = "embedded-" + hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        return [first, *(f"{first}-{number}" for number in range(2, self._count_embedded_workers() + 1))]

    def _count_embedded_workers(self) -> int:
        if self.embedded_workers != "auto":
            return self.embedded_workers
        may_use_gpu = self.device == "auto" or self.device.startswith("cuda")
        share_gpu = may_use_gpu and _NVIDIA.exists() and available_cores() >= _CORES_FOR_SHARING
        return WORKERS_OF_GPU if share_gpu else 1

    @property
    def effective_lease_seconds(self) -> float:
        """The lease that workers start from: one shorter than decoding an image would expire in a healthy worker."""
        return max(self.lease_seconds, LEASE_PER_DECODE_TIMEOUT * self.decode_timeout_seconds)

    def as_environment(self) -> dict[str, str]:
        """Return the variables from which a child process reads these settings."""
        values = {
            "data_dir": str(self.data_dir),
            "broker_url": self.broker_url,
            "broker_password_file": str(self.broker_password_file or ""),
            "broker_ca": str(self.broker_ca or ""),
            "broker_certificate": str(self.broker_certificate or ""),
            "broker_key": str(self.broker_key or ""),
            "database_url": self.database_url or self.store_url,
            "database_password_file": str(self.database_password_file or ""),  # its name, not its content
            "worker_name": self.worker_name,
            "bundles": os.pathsep.join(map(str, self.bundles)),
        }
        return {PREFIX + key.upper(): value for key, value in values.items() if value}


def read_settings(**given: object) -> Settings:
    """Read the settings; `given` ones win over the environment. Raises UsageError that names the variable at fault."""
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        value = "***" if name.endswith("_URL") else first.get("input")  # URLs hold passwords
        raise UsageError(f"{name}={value!s}: {fault(error, Settings.model_fields)}.") from None
    _check_combinations(settings)
    return settings


def unknown_settings() -> list[str]:
    """Return a line for each variable with our prefix that is no setting, and remove it from the environment."""
    known = [name.upper() for name in Settings.model_fields]
    lines = []
    for name in take_unknown_settings(known):
        nearest = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, 1)
        hint = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "docs/reference/settings.md lists all settings."
        lines.append(f"warning: {name} is no setting and is ignored; {hint}")
    return lines


def describe_lease(settings: Settings) -> str:
    """Return the effective lease for people, and why it is longer than the configured one."""
    lease = f"{settings.effective_lease_seconds:g} s"
    if settings.effective_lease_seconds == settings.lease_seconds:
        return lease
    least = f"{LEASE_PER_DECODE_TIMEOUT:g} x {PREFIX}DECODE_TIMEOUT_SECONDS={settings.decode_timeout_seconds:g}"
    return f"{lease}, raised from {PREFIX}LEASE_SECONDS={settings.lease_seconds:g}: a lease is at least {least}"


def _check_combinations(settings: Settings) -> None:
    """Raise UsageError where settings contradict each other, or a file that they name cannot be used."""
    _ = settings.store_url
    broker = urlsplit(settings.broker)
    if broker.username and not broker.password:
        raise UsageError(
            f"{PREFIX}BROKER_URL: a user without a password. Write redis://:password@host when there is no user."
        )
    trust = (settings.broker_ca, settings.broker_certificate, settings.broker_key)
    if any(trust) and broker.scheme != "rediss":
        names = f"{PREFIX}BROKER_CA, _CERTIFICATE and _KEY"
        raise UsageError(f"{names} are for a {PREFIX}BROKER_URL that begins with rediss://.")
    if any(trust):
        check_certificates(*trust)


def _absolute_root(path: str) -> str:
    return path if is_url(path.encode(errors="surrogateescape")) else str(Path(path).absolute())
