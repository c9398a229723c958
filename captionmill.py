"""The entry points. They make Python find our packages and libraries, whatever is on PYTHONPATH.

`producer`, `worker`, `training` and `migrations` are everyday names, and others have packages of these names too. This
module has the name of the distribution, so the console scripts can rely on it; child processes run it by its path.
"""

# ruff: noqa: E402, PTH119, PTH120, what is imported before the search path is in order may be another module of that name

import os
import sys


def _put_installed_modules_first() -> None:
    """Move what stands before Python's own modules in the search path, which is PYTHONPATH, to its end.

    A person's `queue.py` or `redis.py` there would take the place of the module that we or our libraries mean.
    """
    own = os.path.dirname(os.__file__)
    first = sys.path.index(own) if own in sys.path else 0
    sys.path[:] = [*sys.path[first:], *sys.path[:first]]


def _end_at_ctrl_c() -> None:
    """Let Ctrl-C end a program at once until `captioning.start` and the program itself handle it."""
    import signal

    program = os.path.basename(sys.argv[0])

    def end(*_: object) -> None:
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(130)

    is_ours = program in ("producer", "worker", "training")  # otherwise somebody imports this module
    if is_ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


_put_installed_modules_first()
_end_at_ctrl_c()

from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = frozenset({"captioning", "migrations", "producer", "training", "worker"})
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
    _start("producer.cli")


def worker() -> None:
    """Run the command `worker`."""
    _start("worker.cli")


def training() -> None:
    """Run the command `training`."""
    _start("training.cli")


def _start(module: str) -> None:
    from captioning.start import run_main

    run_main(module)


if __name__ == "__main__":  # pool processes import this module again, under another name
    _start(sys.argv.pop(1))
