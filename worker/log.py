"""The worker's log on standard error: one line per event, for people or as JSON (CAPTIONING_LOG=json).

Our own events (structlog) and the records of Celery and other libraries (the standard library's logging) go through one
formatter, so every line has the same form and the same time format: ISO 8601, UTC. We log from level info, libraries
from level warning.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import structlog
from celery.utils.log import get_multiprocessing_logger
from structlog.typing import FilteringBoundLogger, Processor

OWN_LOGGERS = ("worker", "captioning", "migrations")
QUIET_SECONDS = 60.0  # an error that did not occur for this long is a new one
_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def set_up_log(
    style: Literal["console", "json"], library_level: int = logging.WARNING, file: str | None = None
) -> None:
    """Send everything that this process logs to standard error, or to `file`. Later calls replace earlier ones."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.FileHandler(file) if file else logging.StreamHandler(sys.stderr)
    handler.addFilter(ThinnedRepeats())
    handler.setFormatter(_formatter(style, colors=file is None and sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(library_level)
    logging.captureWarnings(True)  # of Python's `warnings`
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(min(logging.INFO, library_level))
    billiard = get_multiprocessing_logger()
    billiard.handlers.clear()  # it brings a handler of its own into pool processes
    billiard.propagate = True
    billiard.setLevel(library_level)


def _formatter(style: Literal["console", "json"], *, colors: bool) -> logging.Formatter:
    render: list[Processor]
    if style == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:  # a traceback without the values of variables, which may be passwords
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render], foreign_pre_chain=_SHARED
    )


class ThinnedRepeats(logging.Filter):
    """Lets a repeated record of a library through at its 1st, 2nd, 4th, 8th... occurrence."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._repeats = Repeats(clock)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] in OWN_LOGGERS:
            return True
        key = (record.name, "".join(c for c in record.getMessage() if not c.isdigit()))  # a number is not another error
        return is_due(self._repeats.count(key))


class Repeats:
    """Counts how often the same thing happened. What did not happen for QUIET_SECONDS is new again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}  # occurrences, time of the last one

    def count(self, key: tuple[str, str]) -> int:
        """Record an occurrence; return how many there were."""
        now = self._clock()
        self._seen = {seen: (n, at) for seen, (n, at) in self._seen.items() if now - at <= QUIET_SECONDS}
        count = self._seen.get(key, (0, now))[0] + 1
        self._seen[key] = (count, now)
        return count


def is_due(count: int) -> bool:
    """Return whether the occurrence with this number is logged: the powers of two are."""
    return count & (count - 1) == 0


class RepeatedErrors:
    """Logs an error that repeats at its 1st, 2nd, 4th, 8th... occurrence, with the number of occurrences as `count`."""

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._repeats = Repeats(clock)

    def warning(self, event: str, key: str = "", **fields: Any) -> None:
        """Log a warning if it is due. Two errors are the same one when `event` and `key` are equal."""
        self._log_if_due(self._log.warning, event, key, fields)

    def error(self, event: str, key: str = "", **fields: Any) -> None:
        """Log an error if it is due."""
        self._log_if_due(self._log.error, event, key, fields)

    def _log_if_due(self, emit: Callable[..., Any], event: str, key: str, fields: dict[str, Any]) -> None:
        count = self._repeats.count((event, key))
        if is_due(count):
            emit(event, count=count, **fields)
