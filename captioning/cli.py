"""What the three command lines share: an error becomes one line and an exit code, never a traceback."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from captioning.command_tree import command_tree
from captioning.environment import debug_enabled, set_for_children
from captioning.errors import CaptioningError, StoreFault
from captioning.installation import install_hint
from captioning.settings import unknown_settings
from captioning.start import INTERRUPTED
from captioning.terminal import printable
from captioning.usage import usage_message


def command_line(app: typer.Typer, name: str) -> None:
    """Run a Typer app and exit: 0 done, 1 an error, 2 wrong usage, 130 interrupted."""
    set_for_children("PYTHONSAFEPATH", "1")  # no Python that we start imports modules from the working directory
    _repair_streams()
    try:
        with _interruptible():
            _check_working_folder()
            for warning in unknown_settings():
                _report(name, warning, 0)
            code = _run(app, name)
        if code == INTERRUPTED:  # Typer has caught the Ctrl-C
            _report(name, "interrupted", INTERRUPTED)
    except typer.TyperException as error:
        code = _report(name, usage_message(error), error.exit_code)
    except CaptioningError as error:
        if isinstance(error, StoreFault) and debug_enabled():
            raise
        code = _report(name, str(error), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        code = _report(name, "interrupted", INTERRUPTED)
    except ModuleNotFoundError as error:
        code = _report(name, install_hint(error), 1)
    except BrokenPipeError:  # the reader of the output, `head` for example, has closed it
        _close_outputs()
        code = 0
    except OSError as error:
        code = _report(name, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except Exception as bug:
        if debug_enabled():
            raise
        code = _report(name, f"internal error, {type(bug).__name__}: {bug}. CAPTIONING_DEBUG=1 shows where.", 1)
    raise SystemExit(code)


def _run(app: typer.Typer, name: str) -> int:
    """Run the app and return its exit code. Raises BrokenPipeError when the reader of the output has closed it."""
    stdout = sys.stdout
    try:
        code: int = command_tree(app)(prog_name=name, standalone_mode=False)
    except SystemExit:
        if sys.stdout is not stdout:  # Typer has replaced it, because it cannot be written to any more
            raise BrokenPipeError from None
        raise
    sys.stdout.flush()
    return code


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, so that commands can clean up; before and after, `captionmill` handles it."""
    outside = signal.getsignal(signal.SIGINT)
    if outside is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, outside)


def _check_working_folder() -> None:
    """Raise CaptioningError when the working folder was deleted: relative paths would have no meaning."""
    try:
        Path.cwd()
    except OSError as error:
        raise CaptioningError(
            f"the current folder is gone or cannot be entered ({error.strerror}): change to another one and try again."
        ) from None


def _repair_streams() -> None:
    """Replace standard streams that are closed, and let the others write any character."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115, open for as long as the process
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _close_outputs() -> None:
    """Send what is still to be written nowhere."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _report(name: str, message: str, code: int) -> int:
    print(f"{name}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
