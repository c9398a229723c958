"""seccomp: the Linux kernel refuses a process every system call but those that decoding an image needs.

libseccomp makes the filter; it knows the numbers of the calls. It is a library of the system, so it may be missing.
"""

import ctypes
import errno
import os
import platform
from typing import Any

_SET_SECCOMP, _FILTER = 22, 2
_EXECUTABLE = 4  # PROT_EXEC
_SAME_PROCESS = 0x10000  # CLONE_THREAD: a new thread, not a new process
_ARCHITECTURES = ("x86_64", "aarch64")  # elsewhere the arguments of `clone` may have another order

_ALLOWED = """
    read readv pread64 write writev lseek close fstat
    brk munmap mremap madvise membarrier
    futex set_robust_list rseq sched_yield sched_getaffinity exit exit_group restart_syscall
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
    getpid gettid getrandom sysinfo
"""


def is_available() -> bool:
    """Return whether this kernel takes filters and libseccomp is there to make one."""
    if platform.machine() not in _ARCHITECTURES or _library() is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_SECCOMP, _FILTER, None, 0, 0)  # sets nothing: a filter at the address 0 cannot be read
    return ctypes.get_errno() == errno.EFAULT


def restrict() -> None:
    """Refuse all threads of this process all other system calls, with EPERM. Raises OSError.

    No memory becomes executable, signals go to this process only, and it starts threads but no processes.
    """
    library = _library()
    rules = library.SyscallFilter(library.ERRNO(errno.EPERM))
    rules.set_attr(library.Attr.CTL_TSYNC, 1)
    for name in _ALLOWED.split():
        if library.resolve_syscall(library.Arch.NATIVE, name) >= 0:  # not every machine has and knows every call
            rules.add_rule(library.ALLOW, name)
    not_executable = library.Arg(2, library.MASKED_EQ, _EXECUTABLE, 0)
    rules.add_rule(library.ALLOW, "mmap", not_executable)
    rules.add_rule(library.ALLOW, "mprotect", not_executable)
    rules.add_rule(library.ALLOW, "clone", library.Arg(0, library.MASKED_EQ, _SAME_PROCESS, _SAME_PROCESS))
    rules.add_rule(library.ERRNO(errno.ENOSYS), "clone3")  # its flags lie in memory; libc then uses `clone`
    for name in ("kill", "tgkill"):
        rules.add_rule(library.ALLOW, name, library.Arg(0, library.EQ, os.getpid()))
    rules.load()


def _library() -> Any:
    """Return the binding of libseccomp, None where either is missing."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError):  # the second: no libseccomp
        return None
    return pyseccomp
