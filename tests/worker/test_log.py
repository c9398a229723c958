"""Every line of the log has one form: our events, Celery's messages, warnings and tracebacks."""

import json
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from celery import signals
from structlog.contextvars import bound_contextvars

from worker import lifecycle
from worker.log import OWN_LOGGERS, QUIET_SECONDS, RepeatedErrors, set_up_log

ISO_8601_UTC = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
log = structlog.get_logger("worker.somewhere")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what `set_up_log` changes in this process."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in (None, *OWN_LOGGERS)}
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_an_event_is_one_json_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("json")
    log.info("chunk_done", captioned=3, seconds=0.5)
    (line,) = lines(capsys)
    assert re.fullmatch(ISO_8601_UTC, line.pop("timestamp"))
    assert line == {
        "event": "chunk_done",
        "captioned": 3,
        "seconds": 0.5,
        "level": "info",
        "logger": "worker.somewhere",
    }


def test_messages_of_libraries_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("json")
    for name in ("celery.worker.consumer", "kombu.connection", "multiprocessing"):
        logging.getLogger(name).error("cannot connect to %s:\nretrying", "the broker")
    for line, name in zip(
        lines(capsys), ("celery.worker.consumer", "kombu.connection", "multiprocessing"), strict=True
    ):
        assert re.fullmatch(ISO_8601_UTC, line.pop("timestamp"))
        assert line == {"event": "cannot connect to the broker:\nretrying", "level": "error", "logger": name}


@pytest.mark.parametrize("style", ["console", "json"])
def test_tracebacks_show_no_values(style: Literal["console", "json"], capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log(style)
    for emit in (logging.getLogger("celery").exception, log.exception):
        password = "secret"
        try:
            raise ValueError(f"boom {len(password)}")
        except ValueError:
            emit("it failed")
    text = capsys.readouterr().err
    assert text.count("ValueError: boom 6") == 2
    assert "raise ValueError" in text
    assert "'secret'" not in text


def test_warnings_of_python_are_part_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    (line,) = lines(capsys)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")


def test_libraries_log_warnings_and_worse_only(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("json")
    logging.getLogger("celery").info("connected")
    logging.getLogger("celery").warning("disconnected")
    log.debug("detail")
    log.info("event")
    assert [line["event"] for line in lines(capsys)] == ["disconnected", "event"]


def test_the_console_has_one_line_per_event_and_the_same_time_format(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("console")
    log.info("chunk_done", captioned=3)
    logging.getLogger("celery").warning("disconnected")
    first, second = capsys.readouterr().err.splitlines()
    assert re.match(rf"{ISO_8601_UTC} \[info +\] chunk_done .*captioned=3", first)
    assert re.match(rf"{ISO_8601_UTC} \[warning +\] disconnected", second)


def test_the_ids_of_job_and_chunk_are_on_every_line_of_a_chunk(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("json")
    with bound_contextvars(job=3, chunk=14):
        log.warning("device_out_of_memory", images=32)
        logging.getLogger("PIL").warning("odd image")
    log.info("after")
    inside, library, after = lines(capsys)
    assert (inside["job"], inside["chunk"]) == (library["job"], library["chunk"]) == (3, 14)
    assert "job" not in after


def test_celery_adds_no_handlers_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from captioning.queue.celery_app import make_celery
    from captioning.settings import read_settings

    for name in (
        "CELERY_LOG_LEVEL",
        "CELERY_LOG_FILE",
        "_MP_FORK_LOGLEVEL_",
        "_MP_FORK_LOGFILE_",
        "_MP_FORK_LOGFORMAT_",
    ):
        monkeypatch.setenv(name, "")  # Celery sets them
    settings = read_settings(log="json")
    monkeypatch.setattr(lifecycle, "settings", settings)
    celery = make_celery(settings)
    monkeypatch.setattr(type(celery.log), "_setup", False)
    with warnings.catch_warnings():
        celery.log.setup(loglevel=logging.WARNING)
    assert len(logging.getLogger().handlers) == 1
    logging.getLogger("celery.worker").error("gone")
    assert [line["event"] for line in lines(capsys)] == ["gone"]
    assert signals.setup_logging.receivers


def test_a_repeated_error_is_logged_at_doubling_intervals_with_its_count() -> None:
    with structlog.testing.capture_logs() as events:
        errors = RepeatedErrors(structlog.get_logger())
        for _ in range(1800):  # an hour at 2 s
            errors.warning("service_unavailable", key="no answer", error="no answer")
    assert [event["count"] for event in events] == [2**n for n in range(11)]
    assert {event["error"] for event in events} == {"no answer"}


def test_different_errors_are_counted_apart() -> None:
    with structlog.testing.capture_logs() as events:
        errors = RepeatedErrors(structlog.get_logger())
        for _ in range(3):
            errors.warning("service_unavailable", key="no answer")
            errors.error("service_unavailable", key="no space")
    assert len(events) == 4


def test_an_error_that_comes_back_after_a_quiet_time_is_a_new_one() -> None:
    now = 0.0
    with structlog.testing.capture_logs() as events:
        errors = RepeatedErrors(structlog.get_logger(), clock=lambda: now)
        for _ in range(3):
            errors.warning("service_unavailable")
        now += QUIET_SECONDS + 1
        errors.warning("service_unavailable")
    assert [event["count"] for event in events] == [1, 2, 1]
