"""Processes that train for another: they end with it, and say nothing when a person stops them. Loads no torch."""

import os
import signal
import threading
from multiprocessing import parent_process


def begin_child() -> None:
    """Make a fresh child die with its parent, and of Ctrl-C at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the parent's end. An idle child would else wait for work for ever: it holds both ends of the queue."""
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
