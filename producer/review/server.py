"""The web server of the review, on the loopback interface only.

Every request must name this server in its Host header, so that no other name leads here (DNS rebinding), and must come
from this page or from the person: browsers tell in Origin and Sec-Fetch-Site. The headers of every answer forbid other
pages to show or read it. Requests about captions need the secret of the session in a header; images need the cookie.
"""

import asyncio
import functools
import json
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from captioning.errors import CaptionChanged, CaptioningError, ImageError, ServiceUnavailable, UsageError
from producer.gallery.write import PAGE_FILES, index_html, page_file
from producer.review.actions import Actions
from producer.review.session import Session

TOKEN_HEADER = "X-Captionmill-Token"  # noqa: S105, a name
MAX_BODY = 1_000_000  # bytes of a request
REVIEW_FILES = ("outbox.js", "review.js")  # of the page, besides those of the gallery
_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "captionmill",
}


class _Handler(RequestHandler):
    """Checks where a request comes from."""

    session: Session
    actions: Actions
    is_private = True  # no other page may lead here

    def initialize(self, session: Session, actions: Actions) -> None:
        self.session, self.actions = session, actions

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        headers = self.request.headers
        if self.request.host != f"127.0.0.1:{self.session.port}":
            raise HTTPError(HTTPStatus.MISDIRECTED_REQUEST, reason=f"open {self.session.origin}")
        if headers.get("Origin", self.session.origin) != self.session.origin:
            raise HTTPError(HTTPStatus.FORBIDDEN, reason="another page asks")
        if self.is_private and headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise HTTPError(HTTPStatus.FORBIDDEN, reason="another page asks")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with one line."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}: {self._reason}\n")

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function of the store on another thread."""
        return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args))


class _Page(_Handler):
    is_private = False  # a link in another page may

    def get(self) -> None:
        """Return the page. It has no data, so it needs no secret."""
        html = index_html("page/", [], "review", REVIEW_FILES)
        self.finish(html.replace("img-src 'self';", "img-src 'self'; connect-src 'self';"))


class _PageFile(_Handler):
    def get(self, name: str) -> None:
        """Return a script or the style of the page."""
        if name not in (*PAGE_FILES, *REVIEW_FILES):
            raise HTTPError(HTTPStatus.NOT_FOUND)
        self.set_header("Content-Type", _TYPES[name.rpartition(".")[2]])
        self.finish(page_file(name))


class _Login(_Handler):
    def post(self) -> None:
        """Give the browser the cookie for images in return for the secret."""
        if not self.session.is_token(self.request.headers.get(TOKEN_HEADER, "")):
            raise HTTPError(HTTPStatus.UNAUTHORIZED, reason="open the link that producer review printed")
        self.set_cookie(self.session.cookie_name, self.session.cookie, httponly=True, samesite="Strict", path="/")
        self.finish({})


class _Api(_Handler):
    async def post(self, name: str) -> None:
        """Do one of ACTIONS with the JSON object of the request; answer with another, or with an error in one."""
        if not self.session.is_token(self.request.headers.get(TOKEN_HEADER, "")):
            raise HTTPError(HTTPStatus.UNAUTHORIZED, reason="open the link that producer review printed")
        if name not in ACTIONS:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        if self.request.headers.get("Content-Type", "") != "application/json":
            raise HTTPError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            body = json.loads(self.request.body)
            arguments = [of_type(body[key]) for key, of_type in ACTIONS[name].items()]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise HTTPError(HTTPStatus.BAD_REQUEST) from None
        try:
            self.finish(await self.run(getattr(self.actions, name), *arguments))
        except CaptionChanged as error:
            current = await self.run(self.actions.rows, [arguments[0]])
            self._fail(HTTPStatus.CONFLICT, error, current)
        except UsageError as error:
            self._fail(HTTPStatus.UNPROCESSABLE_ENTITY, error)
        except ServiceUnavailable as error:
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, error)

    def _fail(self, status: HTTPStatus, error: CaptioningError, more: dict[str, Any] | None = None) -> None:
        self.set_status(status)
        self.finish({"error": str(error), **(more or {})})


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list):
        raise TypeError("a list")
    return [int(each) for each in value]


ACTIONS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "meta": {},
    "counts": {},
    "queue": {"name": str, "where": str},
    "rows": {"ids": _ids},
    "details": {"id": int},
    "edit": {"id": int, "version": str, "action": str, "text": str},
    "undo": {"change": int, "id": int},
}
"""The methods of Actions that a page may call, with their arguments."""


class _Image(_Handler):
    async def get(self, kind: str, file_id: str) -> None:
        """Return a JPEG of a file. The address has the content's digest, so a browser may keep it."""
        if not self.session.is_cookie(self.get_cookie(self.session.cookie_name, "") or ""):
            raise HTTPError(HTTPStatus.UNAUTHORIZED, reason="open the link that producer review printed")
        try:
            data = await self.run(self.actions.image, int(file_id), kind)
        except (UsageError, ImageError, OSError):
            raise HTTPError(HTTPStatus.NOT_FOUND) from None
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", "private, max-age=86400, immutable")
        self.finish(data)


def make_application(session: Session, actions: Actions) -> Application:
    """Return the web application of a review."""
    shared = {"session": session, "actions": actions}
    routes = {
        r"/": _Page,
        r"/favicon\.ico": _Icon,
        r"/page/([a-z]+\.(?:js|css))": _PageFile,
        r"/login": _Login,
        r"/api/([a-z]+)": _Api,
        r"/image/(small|large)/([0-9]{1,18})": _Image,
    }
    handlers = [(route, handler, shared) for route, handler in routes.items()]
    missing: dict[str, Any] = {"default_handler_class": _Missing, "default_handler_args": shared}
    return Application(handlers, log_function=lambda _: None, **missing)


class _Icon(_Handler):
    def get(self) -> None:
        """Return nothing: browsers ask for an icon."""
        self.set_status(HTTPStatus.NO_CONTENT)


class _Missing(_Handler):
    def prepare(self) -> None:
        """Refuse every other address."""
        super().prepare()
        raise HTTPError(HTTPStatus.NOT_FOUND)


def listen(port: int) -> list[socket.socket]:
    """Return sockets of the loopback interface. Raises OSError when the port is in use."""
    return bind_sockets(port, "127.0.0.1", family=socket.AF_INET)


def serve(session: Session, actions: Actions, sockets: list[socket.socket], on_ready: Callable[[], object]) -> None:
    """Serve the review until SIGINT or SIGTERM."""

    async def run() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        server = HTTPServer(make_application(session, actions), max_buffer_size=MAX_BODY, max_body_size=MAX_BODY)
        server.add_sockets(sockets)
        on_ready()
        await stopped.wait()
        server.stop()
        await server.close_all_connections()

    asyncio.run(run())
