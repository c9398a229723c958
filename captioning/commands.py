"""What the three command lines share: errors become one line and an exit code, never a traceback."""

import io
import os
import sys
from pathlib import Path

import typer

from captioning.errors import CaptioningError, UsageError
from captioning.text import printable

INTERRUPTED = 130


def command_line(app: typer.Typer, name: str, interrupted: str = "interrupted") -> None:
    """Run a Typer app and exit: 0 done, 1 something broke, 2 usage, 130 interrupted."""
    os.environ["PYTHONSAFEPATH"] = "1"  # no Python that we start imports what lies in the folder where the person is
    _mend_streams()
    try:
        code = app(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # Typer has caught the Ctrl-C
            _say(name, interrupted, INTERRUPTED)
    except typer.TyperException as wrong:
        code = _say(name, wrong.format_message(), wrong.exit_code)
    except UsageError as wrong:
        code = _say(name, str(wrong), 2)
    except CaptioningError as broken:
        code = _say(name, str(broken), 1)
    except (typer.Abort, KeyboardInterrupt):
        code = _say(name, interrupted, INTERRUPTED)
    except ModuleNotFoundError as missing:
        code = _say(name, _remedy(missing), 1)
    except BrokenPipeError:  # the reader of our answer, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as trouble:
        code = _say(name, f"{trouble.strerror or trouble}{f': {trouble.filename}' if trouble.filename else ''}", 1)
    except Exception as bug:
        if os.environ.get("CAPTIONING_DEBUG"):
            raise
        code = _say(name, f"internal error, {type(bug).__name__}: {bug}. CAPTIONING_DEBUG=1 shows where.", 1)
    raise SystemExit(code)


def _mend_streams() -> None:
    """Make standard streams that are closed, or can't write every character, usable."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115, open for as long as the process
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _say(name: str, message: str, code: int) -> int:
    print(f"{name}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _remedy(missing: ModuleNotFoundError) -> str:
    extra = {"nltk": "training", "pycocoevalcap": "training", "flower": "monitoring"}.get(missing.name or "")
    what = f"pip install 'captionmill[{extra}]'" if extra else f"pip install {missing.name}"
    return f"this needs the package {missing.name}, which is not installed: {what}"
