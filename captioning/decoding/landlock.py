"""Landlock: the Linux kernel refuses a process files, programs and TCP from now on. Its system calls by ctypes.

libc has no functions for them. Their numbers are the same on every architecture.
"""

import ctypes
import os

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1  # the flag of _CREATE_RULESET that asks for the version
_NO_NEW_PRIVILEGES = 38
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights to files a version knows; later ones know 16
TCP_SINCE, SIGNALS_SINCE = 4, 6  # versions


class _Ruleset(ctypes.Structure):
    """What is refused unless a rule allows it; we add no rules."""

    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Return the version of Landlock's interface in this kernel, 0 where there is none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))))


def restrict(known: int) -> None:
    """Refuse this thread all that a version of the interface can refuse. Raises OSError."""
    rights = _Ruleset(
        files=(1 << _FILE_RIGHTS.get(known, 16)) - 1,
        tcp=0b11 if known >= TCP_SINCE else 0,  # bind, connect
        scopes=0b11 if known >= SIGNALS_SINCE else 0,  # abstract UNIX sockets of others, signals to others
    )
    size = 8 * (1 + (known >= TCP_SINCE) + (known >= SIGNALS_SINCE))
    rules = _checked(_libc.syscall(_CREATE_RULESET, ctypes.byref(rights), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    try:
        _checked(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT_SELF, rules, ctypes.c_uint32(0)))
    finally:
        os.close(rules)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
