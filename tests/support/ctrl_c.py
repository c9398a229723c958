"""Processes that a test may interrupt."""

import signal


def accept_ctrl_c() -> None:
    """Call in a new process, before its program: the background processes of a shell, which tests may be, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
