"""A web server behind TLS that answers as a test says."""

import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme

Answer = tuple[int, dict[str, str], bytes] | Callable[[BaseHTTPRequestHandler], None]


@dataclass
class WebServer:
    """A running server. `answers` has, by path, status, headers and body; or a function that answers."""

    ca: Path
    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)  # by path

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """Settings with which programs read from it."""
        return {"CAPTIONING_REMOTE_CA": str(self.ca), "CAPTIONING_REMOTE_NETWORKS": "127.0.0.0/8,::1/128"}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.requests[path] += 1
        answer = self.answers.get(path, (404, {}, b""))
        if callable(answer):
            answer(request)
            return
        status, headers, body = answer
        request.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def web_server(folder: Path) -> Iterator[WebServer]:
    """Run a server on localhost while the context lasts."""
    authority, ca = trustme.CA(), folder / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    server = WebServer(ca)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that refuses what it is sent

    with Server(("127.0.0.1", 0), Handler) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True)
        server.port = http.server_port
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
