"""A TCP proxy that misbehaves when told to: it delays, falls silent, resets, or cuts a link at a word."""

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
    """Forwards to a server. What it does to the traffic may be changed while it runs."""

    upstream: Address
    delay: float = 0.0  # seconds, each way, for every piece
    bytes_a_second: float = 0.0  # 0: no limit
    silent: bool = False  # takes everything, passes nothing on: a half-open link
    cut_at: bytes = b""  # of what the client sends: its link is cut there...
    cut_after: bytes = b""  # ...but not before it has sent this
    most_cuts: int = 1
    cut_before: bool = True  # whether the server doesn't get that piece any more
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
        """Cut all links, as a router that reboots does: with a reset, not a farewell."""
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
                for source, sink, watch in ((client, server, self._watcher()), (server, client, lambda piece: False)):
                    threading.Thread(target=self._pump, args=(source, sink, watch), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self.upstream, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.upstream)
            return server
        return socket.create_connection(self.upstream)

    def _watcher(self) -> Callable[[bytes], bool]:
        """Return what tells, for one link, whether it is to be cut at this piece."""
        seen = b""

        def is_the_end(piece: bytes) -> bool:
            nonlocal seen
            seen = (seen + piece)[-1_000_000:] if self.cut_at else b""
            if not self.cut_at or self.cut_at not in piece or self.cut_after not in seen or self.cuts >= self.most_cuts:
                return False
            self.cuts += 1
            return True

        return is_the_end

    def _pump(self, source: socket.socket, sink: socket.socket, is_the_end: Callable[[bytes], bool]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if self.silent:
                    continue
                time.sleep(self.delay + (len(piece) / self.bytes_a_second if self.bytes_a_second else 0.0))
                if is_the_end(piece):
                    if not self.cut_before:
                        sink.sendall(piece)
                        time.sleep(0.3)  # the server has done it, and its answer meets a closed door
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
