"""What a decode process must not do: open files, use the network, start programs, reach other processes.

An image may take its process over through a vulnerability of a codec. On Linux the kernel then refuses all that but
reading from and writing to what is open already. There are three layers, each applied where it is there:

* seccomp refuses system calls: every one but those that decoding needs.
* Landlock refuses files, programs, TCP and, in newer kernels, signals to other processes.
* Limits of the process, on every Unix: nothing new can be opened, not even a socket, and root has no capabilities.

Everything that decoding reads, above all Python's modules, is loaded before.
"""

import ctypes
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

from captioning.decoding import landlock, seccomp

_SET_DUMPABLE, _CAPABILITY_VERSION = 4, 0x20080522


@dataclass(frozen=True)
class Confinement:
    """Which layers confine a decode process besides its limits."""

    seccomp: bool = False
    landlock: int = 0  # version of its interface, 0: none

    @property
    def is_complete(self) -> bool:
        """Whether the kernel refuses files, programs and the network."""
        return self.seccomp or self.landlock >= landlock.TCP_SINCE

    def __str__(self) -> str:
        layers = [name for name, there in (("seccomp", self.seccomp), ("Landlock", self.landlock)) if there]
        return f"confined by {' and '.join(layers)}" if layers else "not confined"


def available() -> Confinement:
    """Return the layers that this system can apply. Nothing is applied."""
    if sys.platform != "linux":
        return Confinement()
    return Confinement(seccomp.is_available(), landlock.version())


def confine(wanted: Confinement) -> Confinement:
    """Apply these layers, and the limits, to this process for the rest of its life. Return what was applied.

    Landlock binds the calling thread and those that it starts, so there must not be others.
    """
    has_seccomp = wanted.seccomp and seccomp.is_available()  # which also loads libseccomp
    version = wanted.landlock if wanted.landlock and _tried(lambda: landlock.restrict(wanted.landlock)) else 0
    _limit_descriptors()
    _drop_capabilities()
    return Confinement(has_seccomp and _tried(seccomp.restrict), version)


def hide_memory() -> None:
    """Let no process of the same user read this one's memory or environment, which hold passwords.

    It writes no core dumps then, and only root can debug it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _tried(apply: Callable[[], None]) -> bool:
    try:
        apply()
    except OSError:  # a container may refuse what the kernel has
        return False
    return True


def _limit_descriptors() -> None:
    """Let nothing new be opened; what is open stays usable."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _drop_capabilities() -> None:
    """Give up what root may do beyond other users, such as raising limits again."""
    if sys.platform == "linux":
        header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset(header, none)
