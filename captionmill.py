"""Where every process of captionmill starts, before it imports anything else.

`producer`, `worker`, `training` and `migrations` are everyday names, and others have packages of these names too. This
module has the name of the distribution, so the console scripts and child processes can rely on it. Importing it makes
Python find our packages beside this file, whatever is on PYTHONPATH. Nothing else on the path changes.
"""

import atexit
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType

PACKAGES = frozenset({"captioning", "migrations", "producer", "training", "worker"})
INTERRUPTED = 130  # exit code after Ctrl-C
_FOLDER = str(Path(__file__).parent)


class OwnPackages:
    """Finds our packages, and no others, beside this file. A finder as importlib defines it."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _: ModuleType | None = None) -> ModuleSpec | None:
        """Return where a package of ours is; None for every other name."""
        return PathFinder.find_spec(name, [_FOLDER]) if name in PACKAGES else None


sys.meta_path.insert(0, OwnPackages)


def producer() -> None:
    """Run the command `producer`."""
    _run("producer.cli", "producer")


def worker() -> None:
    """Run the command `worker`."""
    _run("worker.cli", "worker")


def training() -> None:
    """Run the command `training`."""
    _run("training.cli", "training")


def child_command(module: str) -> list[str]:
    """Return the command that calls `main` of a module in a new Python process; arguments may follow."""
    return [sys.executable, "-P", str(Path(__file__)), module]


def _run(module: str, name: str) -> None:
    """Call `main` of a module. Until it handles Ctrl-C itself, Ctrl-C ends this process at once."""

    # The names are arguments because Python clears a module before it calls the last signal handlers.
    def interrupt(_signal: int, _frame: FrameType | None, write: object = os.write, leave: object = os._exit) -> None:
        write(2, f"{name}: interrupted\n".encode())  # type: ignore[operator]
        leave(INTERRUPTED)  # type: ignore[operator]

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise it is ignored, as for `command &`
        signal.signal(signal.SIGINT, interrupt)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the last moment, when Python calls no handler
    from captioning.environment import drop_foreign_variables

    drop_foreign_variables()
    importlib.import_module(module).main()


if __name__ == "__main__":  # pool processes import this module again, under another name
    _module = sys.argv.pop(1)
    _run(_module, _module.partition(".")[0])
