"""The worker's log: one line an event, on standard error; JSON when CAPTIONING_LOG=json is wanted by a collector."""

import logging
import sys

import structlog


def set_up_log() -> None:
    """Send structlog and the libraries' logging to standard error, warnings and worse of the latter."""
    render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
