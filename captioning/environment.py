"""The environment variables of this process and of its children. The only module that uses them directly.

Libraries read variables of their own, and Celery lets them win over what it is given. Another project's
CELERY_BROKER_URL would send our messages to that project's broker, past `rediss://` and its password. So programs and
their children drop these variables before they import the libraries.
"""

import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

PREFIX = "CAPTIONING_"
_SECRET_PREFIXES = (PREFIX, "PG")  # variables that may hold passwords begin like this

FOREIGN_PREFIXES = (
    "CELERY_",
    "KOMBU_",
    "_MP_FORK_",  # billiard's
    "DJANGO_",  # Celery sets up the Django project that it finds
    "PSYCOPG_",
    "OPTUNA_",
    "LT_",  # Lightning Fabric's: accelerator, devices, precision
    "MO_",  # OpenVINO's: transformations of the network
    "TYPER_",
    "AWS_",  # botocore's: another endpoint, other credentials, files that name them
    "BOTO_",
    "BOTOCORE_",
    "S3FS_",
    "GCSFS_",
    "GOOGLE_",
    "GCE_METADATA_",
    "FSSPEC_",
)
"""Variables of libraries begin like this."""

_FOREIGN_BY_OWNER = {
    "Celery's options -A, -b, --result-backend, --loader, --config, --skip-checks": """
        APP BROKER_URL RESULT_BACKEND LOADER CONFIG_MODULE SKIP_CHECKS""",
    "switches of Celery, kombu and billiard; some end the process when they are not numbers": """
        AUTOSCALE_KEEPALIVE C_BENCH C_BENCH_EVERY C_FAKEFORK C_IMPDEBUG C_REMDEBUG C_STRICT_APP C_WARN_APP C_WNOCONF
        DISABLE_TRACEBACKS EVENTLET_NOBLOCK FORKED_BY_MULTIPROCESSING MP_LOG MP_MAIN_FILE
        MULTIPROCESSING_FORKING_DISABLE NOSETPS PICKLE_PROTOCOL REMAP_SIGTERM TIMER_DEBUG USE_FAST_LOCALS""",
    "libpq: another server, database, user or session than the URL says": """
        PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGSERVICE PGSERVICEFILE PGSYSCONFDIR PGOPTIONS PGAPPNAME
        PGCLIENTENCODING PGDATESTYLE PGTZ PGGEQO PGCONNECT_TIMEOUT PGTARGETSESSIONATTRS PGLOADBALANCEHOSTS""",
    "gcsfs: another server, and Google's metadata service": """
        STORAGE_EMULATOR_HOST NO_GCE_CHECK FETCH_RAW_TOKEN_EXPIRY DEFAULT_GCSFS_CONCURRENCY""",
    "Alembic's configuration file; Matplotlib's backend, which Jupyter sets for its children, and style": """
        ALEMBIC_CONFIG MPLBACKEND MATPLOTLIBRC""",
}
FOREIGN = frozenset(" ".join(_FOREIGN_BY_OWNER.values()).split())
"""Other variables of libraries, by name. libpq's for passwords and TLS stay: they fill in what a URL leaves open."""


def is_foreign(name: str) -> bool:
    """Return whether a variable is one of a library, by which another project would change what we do."""
    return name in FOREIGN or name.startswith(FOREIGN_PREFIXES)


def drop_foreign_variables() -> None:
    """Remove libraries' variables from this process, and so from those that it starts.

    Not for Celery's pool processes: there Celery has set such variables itself, and the parent process has dropped the
    others.
    """
    for name in [name for name in os.environ if is_foreign(name)]:
        del os.environ[name]


def take_unknown_settings(known: Iterable[str]) -> list[str]:
    """Remove and return the variables with our prefix that are no setting; `known` has the settings in capitals.

    They are removed so that only one process of a command warns of them.
    """
    settings = {PREFIX + name for name in known}
    unknown = [name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in settings]
    for name in unknown:
        del os.environ[name]
    return sorted(unknown)


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child process: this process's, with changes."""
    return {**os.environ, **changes}


def child_environment_without_secrets(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child process that must not learn passwords."""
    return {k: v for k, v in child_environment(changes).items() if not k.startswith(_SECRET_PREFIXES)}


def set_for_children(name: str, value: str) -> None:
    """Set an environment variable for every process that this one starts from now on."""
    os.environ[name] = value


def math_thread_settings() -> dict[str, str]:
    """Return the variables that limit the threads of NumPy and torch in a worker, except those that the person has set.

    All work on small products, and by default have a thread for each core that spins between them, which keeps cores
    from decoding and from the encoder: OpenVINO has threads of its own. So NumPy has one thread, torch half the cores,
    and its threads spin only from one operation of a search to the next. On ARM, torch also uses the
    variable of OpenBLAS.
    """
    settings = {"OMP_NUM_THREADS": str(max(1, available_cores() // 2))}
    if platform.machine() not in ("aarch64", "arm64"):
        settings["OPENBLAS_NUM_THREADS"] = "1"
    if "OMP_WAIT_POLICY" not in os.environ:
        settings["GOMP_SPINCOUNT"] = "20000"
    return {name: value for name, value in settings.items() if name not in os.environ}


def set_up_math_threads() -> None:
    """Limit the threads of NumPy and torch, here if neither is imported yet, and in child processes."""
    for name, value in math_thread_settings().items():
        set_for_children(name, value)


def debug_enabled() -> bool:
    """Return whether tracebacks are wanted, also when the settings themselves are wrong."""
    return os.environ.get(f"{PREFIX}DEBUG", "").lower() in ("1", "true", "yes", "on")


def is_spawned_rank() -> bool:
    """Return whether this process was started by torch's distributed launcher, which sets LOCAL_RANK."""
    return "LOCAL_RANK" in os.environ


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def temporary_folder() -> Path:
    """Return the folder for temporary files: TMPDIR even if nothing can be written there, which Python passes over."""
    return Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
