"""What the three command lines share: an error becomes one line and an exit code, never a traceback."""

import io
import os
import sys
from pathlib import Path

import typer

from captioning.command_tree import command_tree
from captioning.errors import CaptioningError, Interrupted, UsageError
from captioning.settings import debug_enabled, set_for_children
from captioning.terminal import printable

INTERRUPTED = 130
_EXTRAS = {"nltk": "training", "pycocoevalcap": "training", "flower": "monitoring"}  # package -> extra that installs it


def command_line(app: typer.Typer, name: str) -> None:
    """Run a Typer app and exit: 0 done, 1 an error, 2 wrong usage, 130 interrupted."""
    set_for_children("PYTHONSAFEPATH", "1")  # no Python that we start imports modules from the working directory
    _repair_streams()
    try:
        code = command_tree(app)(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # Typer has caught the Ctrl-C
            _report(name, "interrupted", INTERRUPTED)
    except typer.TyperException as error:
        message = error.format_message().replace("Value error, ", "")  # a prefix of pydantic's
        code = _report(name, message, error.exit_code)
    except UsageError as error:
        code = _report(name, str(error), 2)
    except Interrupted as error:
        code = _report(name, str(error), INTERRUPTED)
    except CaptioningError as error:
        code = _report(name, str(error), 1)
    except (typer.Abort, KeyboardInterrupt):
        code = _report(name, "interrupted", INTERRUPTED)
    except ModuleNotFoundError as error:
        code = _report(name, _install_hint(error), 1)
    except BrokenPipeError:  # the reader of the output, `head` for example, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        code = _report(name, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except Exception as bug:
        if debug_enabled():
            raise
        code = _report(name, f"internal error, {type(bug).__name__}: {bug}. CAPTIONING_DEBUG=1 shows where.", 1)
    raise SystemExit(code)


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


def _report(name: str, message: str, code: int) -> int:
    print(f"{name}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _install_hint(error: ModuleNotFoundError) -> str:
    extra = _EXTRAS.get(error.name or "")
    command = f"pip install 'captionmill[{extra}]'" if extra else f"pip install {error.name}"
    return f"the package {error.name} is not installed. Run: {command}"
