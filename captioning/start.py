"""How a process of ours starts: with its Ctrl-C handled and without libraries' variables, before any import."""

import atexit
import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from captioning.environment import drop_foreign_variables, set_for_children

INTERRUPTED = 130  # exit code after Ctrl-C
_ENTRY = Path(__file__).parents[1] / "captionmill.py"


def run_main(module: str) -> None:
    """Import a module of ours and call its `main`. Until it handles Ctrl-C itself, Ctrl-C ends this process at once."""
    line = f"{module.partition('.')[0]}: interrupted\n".encode()

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        os.write(2, line)
        os._exit(INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored for `command &`
        signal.signal(signal.SIGINT, interrupt)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the last moment, when Python calls no handler
    drop_foreign_variables()
    search_path = [path for path in sys.path if Path(path).is_absolute()]  # in the order of `captionmill`
    set_for_children("PYTHONPATH", os.pathsep.join(search_path))
    with fast_imports():
        main = importlib.import_module(module).main
    main()


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """Import without collecting garbage, of which there is hardly any: collections take a fifth of the time.

    What is imported is there until the process ends, so later collections do not look at it either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def child_command(module: str) -> list[str]:
    """Return the command that calls `main` of a module in a new Python process; arguments may follow."""
    return [sys.executable, "-P", str(_ENTRY), module]
