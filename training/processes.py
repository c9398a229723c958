"""Child processes of a training program: they end with their parent and print nothing when a person stops them.

Does not import torch: a child runs `begin_child` before it loads anything else.
"""

import os
import signal
import threading
from multiprocessing import parent_process


def begin_child() -> None:
    """Make a new child process end when its parent ends, and end at once on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the parent ends, then exit.

    Without this, an idle child would wait for work forever: it has both ends of the work queue open, so it never sees
    the queue close.
    """
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
