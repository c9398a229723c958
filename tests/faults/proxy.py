"""A TCP proxy that misbehaves on request: it delays, drops all traffic, resets links, or cuts one at a given word."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Address = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""


@dataclass
class Proxy:
    """Forward to a server. What it does to the traffic can be changed while it runs."""

    upstream: Address
    delay: float = 0.0  # seconds, in each direction, for every piece
    bytes_per_second: float = 0.0  # 0: no limit
    silent: bool = False  # accepts everything and forwards nothing, like a half-open link
    cut_at: bytes = b""  # cut a client's link when the client sends this...
    cut_after: bytes = b""  # ...and has sent this earlier
    max_cuts: int = 1
    cut_before_forwarding: bool = True  # the server does not receive the piece with `cut_at`
    cuts: int = 0
    port: int = 0
    _links: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.reset()

    def reset(self) -> None:
        """Reset all links, as a router does when it reboots."""
        links, self._links = self._links, []
        for link in links:
            _reset(link)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = self._connect()
                except OSError:
                    _reset(client)
                    continue
                self._links += [client, server]
                for source, sink, cuts_at in ((client, server, self._cutter()), (server, client, lambda piece: False)):
                    threading.Thread(target=self._pump, args=(source, sink, cuts_at), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self.upstream, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.upstream)
            return server
        return socket.create_connection(self.upstream)

    def _cutter(self) -> Callable[[bytes], bool]:
        """Return a function that decides, for one link, whether to cut it at this piece."""
        seen = b""

        def cuts_at(piece: bytes) -> bool:
            nonlocal seen
            seen = (seen + piece)[-1_000_000:] if self.cut_at else b""
            if not self.cut_at or self.cut_at not in piece or self.cut_after not in seen or self.cuts >= self.max_cuts:
                return False
            self.cuts += 1
            return True

        return cuts_at

    def _pump(self, source: socket.socket, sink: socket.socket, cuts_at: Callable[[bytes], bool]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if self.silent:
                    continue
                time.sleep(self.delay + (len(piece) / self.bytes_per_second if self.bytes_per_second else 0.0))
                if cuts_at(piece):
                    if not self.cut_before_forwarding:
                        sink.sendall(piece)
                        time.sleep(0.3)  # the server acts on it; its answer finds the link closed
                    break
                sink.sendall(piece)
        for link in (source, sink):
            _reset(link)


def _reset(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
    link.close()
