"""Run by the tests of confinement: python -m tests.decoding.confined WHAT LAYERS [ARGUMENT]; prints JSON.

LAYERS is `none`, for a process that is not confined at all, or JSON of a Confinement.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from captioning.decoding.child import start
from captioning.decoding.confinement import Confinement
from captioning.errors import ImageError
from captioning.model import formats
from captioning.model.formats import BASIC
from captioning.model.pixels import Limits, open_image
from captioning.values import digest_of_pixels

LIBC = ctypes.CDLL(None, use_errno=True)
SEIZE, PIDFD_OPEN = 0x4206, 434
MOST_BYTES = 50_000_000  # of a file; the corpus has sparse ones of terabytes
EXECUTABLE = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


def call(name: str, *arguments: object) -> None:
    if getattr(LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def connect(family: int, kind: int, address: object) -> None:
    with socket.socket(family, kind) as made:
        made.connect(address)


def read_memory(pid: int, at: int) -> None:
    class Part(ctypes.Structure):
        _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t))

    kept = ctypes.create_string_buffer(8)
    own, its = Part(ctypes.addressof(kept), 8), Part(at, 8)
    call("process_vm_readv", pid, ctypes.byref(own), 1, ctypes.byref(its), 1, 0)


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def attacks(victim: int, port: int, folder: str) -> dict[str, Callable[[], object]]:
    """Return what a hostile image could try. Without confinement, every one succeeds as root."""
    here = Path(folder)
    memory = int(Path(f"/proc/{victim}/maps").read_text().partition("-")[0], 16)
    return {
        "TCP": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
        "UDP": lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", port)),
        "UNIX socket": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, str(here / "socket")),
        "pair of sockets": socket.socketpair,
        "pipe": os.pipe,
        "memory file": lambda: os.memfd_create("x"),
        "execute": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": fork,
        "read a file": (here / "file").read_bytes,
        "write a file": lambda: (here / "file").write_bytes(b"x"),
        "create a file": (here / "new").touch,
        "delete a file": (here / "doomed").unlink,
        "list a folder": lambda: list(here.iterdir()),
        "memory of the parent": lambda: Path(f"/proc/{victim}/mem").open("rb").close(),
        "environment of the parent": lambda: Path(f"/proc/{victim}/environ").read_bytes(),
        "ptrace": lambda: call("ptrace", SEIZE, victim, 0, 0),
        "process_vm_readv": lambda: read_memory(victim, memory),
        "pidfd": lambda: call("syscall", ctypes.c_long(PIDFD_OPEN), victim, 0),
        "executable memory": lambda: mmap.mmap(-1, 4096, prot=EXECUTABLE),
        "raise limits": lambda: call("setrlimit", resource.RLIMIT_NOFILE, (ctypes.c_ulong * 2)(64, 64)),
        "kill": lambda: os.kill(victim, signal.SIGWINCH),  # which it ignores
    }


def try_all(victim: str, port: str, folder: str) -> Callable[[], dict[str, str]]:
    """Return a function that returns what became of each attack: `done`, or the name of the error."""
    prepared = attacks(int(victim), int(port), folder)
    return lambda: {name: outcome(attack) for name, attack in prepared.items()}


def outcome(attack: Callable[[], object]) -> str:
    try:
        attack()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def decode_all(folder: str) -> Callable[[], dict[str, str]]:
    """Read the files of a folder now; return a function that decodes them."""
    paths = [path for path in sorted(Path(folder).iterdir()) if path.is_file() and path.stat().st_size < MOST_BYTES]
    files = {path.name: path.read_bytes() for path in paths}
    return lambda: {name: result(data) for name, data in files.items()}


def result(data: bytes) -> str:
    """Return the digest of an image's pixels, or why there are none."""
    try:
        pixels, info = open_image(data, 224, Limits(), BASIC + formats.installed())
    except ImageError as error:
        return f"{error.reason}: {error.detail}"
    return f"{info} {digest_of_pixels(pixels.tobytes())}"


def run_threads() -> dict[str, str]:
    """Start threads, as some codecs do, and stay alive."""
    done: list[int] = []
    threads = [threading.Thread(target=done.append, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"threads": str(len(done))}


def main() -> None:
    what, layers, *arguments = sys.argv[1:]
    prepare = {"attack": try_all, "decode": decode_all, "threads": lambda: run_threads}[what]
    task = prepare(*arguments)
    applied = None if layers == "none" else str(start(Confinement(**json.loads(layers))).confinement)
    imported: list[str] = []
    sys.addaudithook(lambda event, details: imported.append(details[0]) if event == "import" else None)
    print(json.dumps({"applied": applied, "found": task(), "imported": imported}))


if __name__ == "__main__":
    main()
